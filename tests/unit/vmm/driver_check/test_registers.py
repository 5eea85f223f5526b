"""Drivers that access registers and configuration fields wrongly."""

import pytest

from tests.unit.vmm.driver_check.bench import Bench


@pytest.mark.parametrize(("offset", "length"), [(0x70, 1), (0x70, 2), (0x71, 4), (0x080, 8)])
def test_a_width_that_control_registers_do_not_have(mmio: Bench, offset: int, length: int) -> None:
    mmio.find()
    mmio.driver.transport.read(offset, length)
    assert mmio.found() == ["register-width"]
    assert f"{length} bytes at" in mmio.last.did


@pytest.mark.parametrize(
    ("offset", "name"), [(0x28, "GuestPageSize"), (0x3C, "QueueAlign"), (0x40, "QueuePFN")]
)
def test_a_register_of_version_1(mmio: Bench, offset: int, name: str) -> None:
    mmio.find()
    mmio.driver.write(offset, 4096)
    assert mmio.found() == ["register-legacy"]
    assert name in mmio.last.did


def test_each_register_of_version_1_is_told(mmio: Bench) -> None:
    mmio.find()
    for offset in (0x28, 0x3C, 0x40, 0x40):
        mmio.driver.write(offset, 4096)
    assert mmio.found() == ["register-legacy"] * 3


def test_an_offset_without_a_register(mmio: Bench) -> None:
    mmio.find()
    mmio.driver.read(0x0D0)
    assert mmio.found() == ["register-unknown"]
    assert "read 0x0d0" in mmio.last.did


def test_a_write_to_what_can_only_be_read(mmio: Bench) -> None:
    mmio.find()
    mmio.driver.write(0x60, 1)
    assert mmio.found() == ["register-read-only"]


def test_a_read_of_what_can_only_be_written(mmio: Bench) -> None:
    mmio.find()
    mmio.driver.read(0x64)
    assert mmio.found() == ["register-write-only"]


@pytest.mark.parametrize(("offset", "width"), [(0x14, 4), (0x16, 4), (0x00, 1), (0x01, 2)])
def test_a_width_that_a_field_of_pci_does_not_have(pci: Bench, offset: int, width: int) -> None:
    pci.find()
    pci.driver.common(offset, width)
    assert pci.found() == ["field-width"]


def test_an_address_of_64_bits_in_one_access_is_allowed(pci: Bench) -> None:
    pci.negotiate()
    pci.driver.select(0)
    pci.driver.set_common(0x20, 0x4000, 8)
    assert pci.found() == []


def test_a_write_to_a_field_of_pci_that_can_only_be_read(pci: Bench) -> None:
    pci.find()
    pci.driver.set_common(0x12, 1, 2)
    assert pci.found() == ["field-read-only"]


def write_config(bench: Bench, offset: int, value: int, width: int) -> None:
    if bench.kind == "mmio":
        bench.driver.transport.write(0x100 + offset, value.to_bytes(width, "little"))
    else:
        bench.driver.write_structure(4, offset, value, width)


def read_config(bench: Bench, offset: int, width: int) -> None:
    if bench.kind == "mmio":
        bench.driver.transport.read(0x100 + offset, width)
    else:
        bench.driver.read_structure(4, offset, width)


@pytest.mark.parametrize(("offset", "width"), [(0, 1), (8, 8), (16, 4)])
def test_a_width_that_a_field_of_the_configuration_does_not_have(
    bench: Bench, offset: int, width: int
) -> None:
    bench.find()
    read_config(bench, offset, width)
    assert bench.found() == ["config-width"]


def test_fields_read_as_they_are_wide_are_kept(bench: Bench) -> None:
    bench.find()
    for offset, width in ((0, 4), (8, 4), (12, 4), *((16 + byte, 1) for byte in range(6))):
        read_config(bench, offset, width)
    assert bench.found() == []
    assert "DRV-CFG-01" in bench.kept()


def test_a_write_to_a_field_that_is_read_only(bench: Bench) -> None:
    bench.negotiate()
    write_config(bench, 8, 1, 4)
    assert bench.found() == ["config-read-only"]


def test_a_write_past_the_configuration(bench: Bench) -> None:
    bench.negotiate()
    write_config(bench, 0x80, 1, 4)
    assert bench.found() == ["config-read-only"]


def test_a_write_to_the_configuration_before_features_ok(bench: Bench) -> None:
    bench.introduce()
    write_config(bench, 0, 5, 4)
    assert bench.found() == ["config-written-early"]


def test_a_field_whose_feature_is_not_offered(bench: Bench) -> None:
    bench.find()
    read_config(bench, 24, 2)
    assert bench.found() == ["config-not-offered"]
    assert "(bit 2)" in bench.last.did
