"""The tables in guest memory, by offsets typed from ACPI 6.5 and followed as a kernel does."""

import struct

import pytest

from tests.unit.vmm.x86.acpi import machines
from virtio.errors import ConfigurationError, InternalError
from virtio.memory import FlatMemory
from vmm.x86 import layout
from vmm.x86.acpi.madt import madt
from vmm.x86.acpi.tables import Described, write_acpi_tables

ALL = [machines.SMALL, machines.MMIO, machines.PCI, machines.LARGE]


def written(machine: Described) -> bytes:
    ram = bytearray(1 << 20)
    write_acpi_tables(FlatMemory([(0, ram)]), machine)
    return bytes(ram)


def table_at(ram: bytes, address: int) -> bytes:
    (length,) = struct.unpack_from("<I", ram, address + 4)
    return ram[address : address + length]


def tables(ram: bytes) -> dict[bytes, bytes]:
    """Follow the RSDP at 0xe0000 to all tables."""
    (root,) = struct.unpack_from("<Q", ram, 0xE0000 + 24)
    xsdt = table_at(ram, root)
    listed = struct.unpack(f"<{(len(xsdt) - 36) // 8}Q", xsdt[36:])
    found = {table[:4]: table for table in (xsdt, *(table_at(ram, one) for one in listed))}
    (dsdt,) = struct.unpack_from("<Q", found[b"FACP"], 140)
    return found | {b"DSDT": table_at(ram, dsdt)}


@pytest.mark.parametrize("machine", ALL)
def test_the_sum_of_each_table_is_zero(machine: Described) -> None:
    ram = written(machine)

    assert ram[0xE0000:0xE0008] == b"RSD PTR "
    assert sum(ram[0xE0000:0xE0014]) % 256 == 0
    assert sum(ram[0xE0000:0xE0024]) % 256 == 0
    assert {sum(one) % 256 for one in tables(ram).values()} == {0}


@pytest.mark.parametrize("machine", ALL)
def test_nothing_is_written_outside_of_the_tables_place(machine: Described) -> None:
    ram = written(machine)

    assert not any(ram[:0xA2000])
    assert not any(ram[0xDFFF0:0xE0000])
    assert not any(ram[0xE0024:])


def test_there_is_an_mcfg_only_with_a_pci_bus() -> None:
    common = {b"XSDT", b"FACP", b"DSDT", b"APIC"}

    assert tables(written(machines.MMIO)).keys() == common
    assert tables(written(machines.PCI)).keys() == common | {b"MCFG"}
    assert b"PC00" not in tables(written(machines.MMIO))[b"DSDT"]


def test_the_mcfg_tells_of_bus_0() -> None:
    mcfg = tables(written(machines.PCI))[b"MCFG"]

    assert mcfg[36:].hex() == "00" * 8 + "0000c0ee00000000" + "0000" + "00" + "00" + "00000000"


def test_the_fadt_has_no_fixed_hardware_but_for_reset_and_sleep() -> None:
    fadt = tables(written(machines.MMIO))[b"FACP"]

    assert len(fadt) == 276
    assert (fadt[8], fadt[131]) == (6, 5)
    assert struct.unpack_from("<H", fadt, 109) == (0x26,)
    assert struct.unpack_from("<I", fadt, 112) == (0x100430,)
    assert fadt[116:129] == struct.pack("<BBBBQB", 1, 8, 0, 1, 0x602, 0x42)
    assert fadt[244:256] == struct.pack("<BBBBQ", 1, 8, 0, 1, 0x600)
    assert fadt[256:268] == struct.pack("<BBBBQ", 1, 8, 0, 1, 0x601)
    assert not any(fadt[36:109] + fadt[132:140] + fadt[148:244])


def test_the_madt_has_each_processor_and_the_ioapic() -> None:
    table = tables(written(machines.PCI))[b"APIC"]

    assert table[36:44] == struct.pack("<II", 0xFEE00000, 0)
    assert table[44:52].hex(" ") == "00 08 00 00 01 00 00 00"
    assert table[52:60].hex(" ") == "00 08 01 01 01 00 00 00"
    assert table[60:72].hex(" ") == "01 0c 00 00 00 00 c0 fe 00 00 00 00"
    assert table[72:].hex(" ") == "04 06 ff 00 00 01"


def test_a_madt_of_too_many_processors_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="255 processors: must be 1 to 254"):
        madt(range(255))


def test_each_virtio_mmio_device_has_its_window_and_interrupt() -> None:
    dsdt = tables(written(machines.MMIO))[b"DSDT"]

    assert dsdt.count(b"LNRO0005") == 2
    assert struct.pack("<BHBII", 0x86, 9, 1, 0xC0002000, 0x1000) in dsdt
    assert struct.pack("<BHBBI", 0x89, 6, 3, 1, 6) in dsdt


def test_each_other_device_is_told_of_by_its_id() -> None:
    dsdt = tables(written(machines.PCI))[b"DSDT"]
    pnp = [b"\x0c\x41\xd0" + bytes.fromhex(one) for one in ("0501", "0303", "0c0c", "0a08", "0c02")]
    named = [b"\x0d" + one + b"\0" for one in (b"QEMU0001", b"PYVM0001", b"ACPI0013")]

    assert [dsdt.count(b"_HID" + one) for one in (*pnp, *named)] == [1] * 8


def test_tables_that_do_not_fit_are_a_bug_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "ACPI_TABLES", 0xDFFF0 - 2048)
    write_acpi_tables(FlatMemory([(0, bytearray(1 << 20))]), machines.SMALL)

    with pytest.raises(InternalError, match="reach into the generation ID"):
        write_acpi_tables(FlatMemory([(0, bytearray(1 << 20))]), machines.LARGE)


def test_the_guest_learns_where_its_generation_id_stands() -> None:
    dsdt = tables(written(machines.SMALL))[b"DSDT"]

    assert b"ADDR\x12\x08\x02\x0c" + struct.pack("<I", 0xDFFF0) + b"\0" in dsdt
