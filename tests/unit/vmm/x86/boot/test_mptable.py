"""The MP table, read back as the MultiProcessor Specification 1.4 tells an operating system to."""

import struct

import pytest

from virtio.errors import ConfigurationError
from virtio.memory import FlatMemory
from vmm.x86.boot.mptable import mp_table, write_mp_table

ENTRY_SIZES = {0: 20, 1: 8, 2: 8, 3: 8, 4: 8}


def walk(table: bytes) -> list[bytes]:
    """Cut the base table into its entries; the processor entry is the only one of 20 bytes."""
    length = struct.unpack_from("<H", table, 4)[0]
    entries, position = [], 44
    while position < length:
        size = ENTRY_SIZES[table[position]]
        entries.append(table[position : position + size])
        position += size
    assert position == length
    return entries


def of_kind(entries: list[bytes], kind: int) -> list[bytes]:
    return [entry for entry in entries if entry[0] == kind]


def test_floating_pointer_stands_in_the_last_kib_of_base_memory() -> None:
    ram = bytearray(0x100000)

    write_mp_table(FlatMemory([(0, ram)]), range(1))

    assert ram[0x9FC00 : 0x9FC00 + 10] == b"_MP_" + b"\x10\xfc\x09\x00" + b"\x01\x04"
    assert ram[0x9FC0B:0x9FC10] == bytes(5)
    assert ram[0x9FC10:0x9FC14] == b"PCMP"


@pytest.mark.parametrize("cpus", [1, 2, 7, 254])
def test_both_structures_sum_to_zero(cpus: int) -> None:
    data = mp_table(range(cpus), 0x9FC00)

    assert sum(data[:16]) % 256 == 0
    assert sum(data[16:]) % 256 == 0
    assert len(data) == 284 + 20 * cpus


def test_header_names_length_entries_and_local_apic() -> None:
    table = mp_table(range(3), 0x9FC00)[16:]

    assert struct.unpack_from("<HB", table, 4) == (len(table), 4)
    assert struct.unpack_from("<IHHI", table, 28) == (0, 0, 31, 0xFEE00000)
    assert struct.unpack_from("<HBB", table, 40) == (0, 0, 0)
    assert len(walk(table)) == 31


def test_entries_stand_in_the_order_of_the_specification() -> None:
    kinds = [entry[0] for entry in walk(mp_table(range(2), 0x9FC00)[16:])]

    assert kinds == [0] * 2 + [1] + [2] + [3] * 24 + [4] * 2


def test_first_processor_boots_and_all_are_enabled() -> None:
    processors = of_kind(walk(mp_table(range(3), 0x9FC00)[16:]), 0)

    assert [processor[:4].hex() for processor in processors] == ["00001403", "00011401", "00021401"]
    assert processors[0][4:] == bytes.fromhex("00060000010200000000000000000000")


def test_bus_ioapic_and_interrupts_are_those_of_an_isa_machine() -> None:
    entries = walk(mp_table(range(2), 0x9FC00)[16:])

    assert of_kind(entries, 1) == [b"\x01\x00ISA   "]
    assert of_kind(entries, 2) == [bytes.fromhex("020214010000c0fe")]
    assert of_kind(entries, 3) == [bytes([3, 0, 0, 0, 0, irq, 2, irq]) for irq in range(24)]
    assert of_kind(entries, 4) == [
        bytes.fromhex("0403000000000000"),
        bytes.fromhex("040100000000ff01"),
    ]


def test_lines_of_pci_are_told_beside_an_isa_bus_of_another_number() -> None:
    entries = walk(mp_table(range(1), 0x9FC00, (0, 1, 5))[16:])

    assert of_kind(entries, 1) == [b"\x01\x00PCI   ", b"\x01\x01ISA   "]
    isa = [bytes([3, 0, 0, 0, 1, irq, 1, irq]) for irq in range(16)]
    # Level, active low; device 5 is four times that in the source, and on the second line.
    lines = [bytes([3, 0, 15, 0, 0, slot << 2, 1, 16 + slot % 4]) for slot in (0, 1, 5)]
    assert of_kind(entries, 3) == isa + lines
    assert of_kind(entries, 4) == [
        bytes.fromhex("0403000001000000"),
        bytes.fromhex("040100000100ff01"),
    ]


def test_processors_have_the_ids_they_are_given_and_the_ioapic_the_next_one() -> None:
    entries = walk(mp_table((0, 1, 2, 4, 5, 6), 0x9FC00)[16:])

    assert [entry[1] for entry in of_kind(entries, 0)] == [0, 1, 2, 4, 5, 6]
    assert [entry[1] for entry in of_kind(entries, 2)] == [7]
    assert {entry[6] for entry in of_kind(entries, 3)} == {7}


@pytest.mark.parametrize("cpus", [0, 255])
def test_cpu_count_out_of_bounds_is_refused(cpus: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{cpus} processors: must be 1 to 254"):
        mp_table(range(cpus), 0x9FC00)
