"""The encoder of AML, by bytes typed from ACPI 6.5 "AML Grammar Definition"."""

import pytest

from vmm.x86.acpi import aml


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a 02"),
        (0xFF, "0a ff"),
        (0x100, "0b 00 01"),
        (0x10000, "0c 00 00 01 00"),
        (0xFFFFFFFF, "0c ff ff ff ff"),
        (0x100000000, "0e 00 00 00 00 01 00 00 00"),
        (0xFFFFFFFFFFFFFFFF, "ff"),
    ],
)
def test_an_integer_has_its_shortest_form(value: int, encoded: str) -> None:
    assert aml.integer(value).hex(" ") == encoded


def test_an_integer_of_more_than_64_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="64 bits at most"):
        aml.integer(1 << 64)


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("_CRS", b"_CRS"),
        ("GED", b"GED_"),
        ("\\", b"\\\0"),
        ("\\_SB", b"\\_SB_"),
        ("PC00.MBRD", b"\x2ePC00MBRD"),
        ("\\_SB.PC00.S01", b"\\\x2f\x03_SB_PC00S01_"),
    ],
)
def test_a_name_has_segments_of_four_characters(path: str, encoded: bytes) -> None:
    assert aml.name_string(path) == encoded


@pytest.mark.parametrize("path", ["COM10", "com1", "1COM", "C-M1", "ÄB"])
def test_a_name_that_aml_cannot_spell_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 4 of A-Z"):
        aml.name_string(path)


@pytest.mark.parametrize(
    ("ids", "encoded"),
    [
        ("PNP0A08", "0c 41 d0 0a 08"),
        ("PNP0501", "0c 41 d0 05 01"),
        ("PNP0C0C", "0c 41 d0 0c 0c"),
    ],
)
def test_an_eisa_id_is_a_number(ids: str, encoded: str) -> None:
    assert aml.eisa_id(ids).hex(" ") == encoded


@pytest.mark.parametrize(
    ("count", "head"),
    [
        (58, "10 3f"),  # one byte: 63 with itself and the name
        (59, "10 41 04"),  # two: 64 + 1
        (0x3D2, "10 48 3d"),
        (4089, "10 4f ff"),
        (4090, "10 81 00 01"),
        (1048568, "10 8f ff ff"),
        (1048569, "10 c1 00 00 01"),
    ],
)
def test_a_length_counts_itself_in_as_few_bytes_as_it_needs(count: int, head: str) -> None:
    term = aml.scope("_SB", bytes(count))

    assert term[: len(bytes.fromhex(head))].hex(" ") == head
    assert term.endswith(b"_SB_" + bytes(count))


def test_the_package_of_the_soft_off_state() -> None:
    zero = aml.integer(0)
    term = aml.name("_S5", aml.package(aml.integer(5), zero, zero, zero))

    assert term.hex(" ") == "08 5f 53 35 5f 12 07 04 0a 05 00 00 00"


def test_a_field_of_32_bits_in_a_region_of_ports() -> None:
    region = aml.operation_region("EREG", aml.SYSTEM_IO, 0x604, 4)
    field = aml.dword_field("EREG", "EVNT")

    assert region == b"\x5b\x80EREG\x01\x0b\x04\x06\x0a\x04"
    assert field == b"\x5b\x81\x0bEREG\x03EVNT\x20"


def test_a_method_that_notifies_on_a_bit() -> None:
    term = aml.method(
        "_EVT",
        aml.store(aml.name_string("EVNT"), aml.LOCAL0),
        aml.if_(aml.bit_and(aml.LOCAL0, aml.integer(2)), aml.notify("VGEN", 0x80)),
        arguments=1,
        serialized=True,
    )

    assert term == b"\x14\x1a_EVT\x09\x70EVNT\x60\xa0\x0d\x7b\x60\x0a\x02\x00\x86VGEN\x0a\x80"
