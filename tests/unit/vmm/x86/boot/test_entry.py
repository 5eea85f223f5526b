"""Registers, descriptor and page tables at the entry, by values typed from the boot protocols."""

import ctypes
import struct

import pytest

from virtio.memory import FlatMemory
from vmm.x86.boot.entry import (
    BOOT_MSRS,
    EntryPoint,
    entry_fpu,
    entry_regs,
    segment,
    set_entry_sregs,
    set_virtual_wire,
    write_tables,
)
from vmm.x86.kvm.chips import LapicState
from vmm.x86.kvm.registers import Segment, Sregs

LINUX64 = EntryPoint("linux64", 0x1000000, rsi=0x7000, rsp=0x8FF0)
PVH = EntryPoint("pvh", 0x1000140, rbx=0x6000)


def reset_sregs() -> Sregs:
    sregs = Sregs()
    sregs.cr0, sregs.cr8, sregs.apic_base = 0x60000010, 3, 0xFEE00900
    return sregs


def fields(found: Segment) -> dict[str, int]:
    return {str(name): getattr(found, str(name)) for name, *_ in Segment._fields_}


def test_64_bit_general_registers() -> None:
    regs = entry_regs(LINUX64)

    words = {"rip": 0x1000000, "rsi": 0x7000, "rsp": 0x8FF0, "rbp": 0x8FF0, "rflags": 2}
    assert {str(n): v for n, *_ in regs._fields_ if (v := getattr(regs, str(n)))} == words


def test_pvh_general_registers() -> None:
    regs = entry_regs(PVH)

    words = {"rip": 0x1000140, "rbx": 0x6000, "rflags": 2}
    assert {str(n): v for n, *_ in regs._fields_ if (v := getattr(regs, str(n)))} == words


def test_64_bit_control_registers() -> None:
    sregs = reset_sregs()

    set_entry_sregs(sregs, LINUX64)

    assert (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) == (0xE0000011, 0x9000, 0x20, 0x500)
    assert (sregs.gdt.base, sregs.gdt.limit) == (0x500, 31)
    assert (sregs.idt.base, sregs.idt.limit) == (0x520, 7)


def test_pvh_control_registers() -> None:
    sregs = reset_sregs()

    set_entry_sregs(sregs, PVH)

    assert (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) == (0x11, 0, 0, 0)


@pytest.mark.parametrize("entry", [LINUX64, PVH])
def test_what_belongs_to_the_vcpu_survives(entry: EntryPoint) -> None:
    sregs = reset_sregs()

    set_entry_sregs(sregs, entry)

    assert (sregs.cr8, sregs.apic_base) == (3, 0xFEE00900)


CODE_64 = {"selector": 0x10, "type": 0xB, "s": 1, "l": 1, "db": 0, "g": 1, "limit": 0xFFFFFFFF}
CODE_32 = {"selector": 0x10, "type": 0xB, "s": 1, "l": 0, "db": 1, "g": 1, "limit": 0xFFFFFFFF}
DATA = {"selector": 0x18, "type": 0x3, "s": 1, "l": 0, "db": 1, "g": 1, "limit": 0xFFFFFFFF}
TSS_64 = {"selector": 0x08, "type": 0xB, "s": 0, "l": 0, "db": 0, "g": 1, "limit": 0xFFFFFFFF}
TSS_32 = {"selector": 0x08, "type": 0xB, "s": 0, "l": 0, "db": 0, "g": 0, "limit": 0x67}
COMMON = {"base": 0, "present": 1, "dpl": 0, "avl": 0, "unusable": 0, "padding": 0}


@pytest.mark.parametrize(
    ("entry", "code", "task"), [(LINUX64, CODE_64, TSS_64), (PVH, CODE_32, TSS_32)]
)
def test_segments_are_flat_and_limits_in_bytes(
    entry: EntryPoint, code: dict[str, int], task: dict[str, int]
) -> None:
    sregs = reset_sregs()

    set_entry_sregs(sregs, entry)

    assert fields(sregs.cs) == COMMON | code
    assert fields(sregs.tr) == COMMON | task
    data = [sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss]
    assert [fields(found) for found in data] == [COMMON | DATA] * 5


def test_every_field_of_a_descriptor_is_converted() -> None:
    # Base 0x12345678, limit 0x9abcd pages, DPL 3, available and not present.
    found = segment(0x12997234_5678ABCD, 0x28)

    assert (found.base, found.limit, found.selector) == (0x12345678, 0x9ABCDFFF, 0x28)
    assert (found.type, found.s, found.dpl, found.present) == (2, 1, 3, 0)
    assert (found.avl, found.l, found.db, found.g, found.unusable) == (1, 0, 0, 1, 1)


def test_64_bit_tables_in_memory() -> None:
    ram = bytearray(b"\xee") * 0x10000

    write_tables(FlatMemory([(0, ram)]), "linux64")

    gdt = (0, 0x008F8B000000FFFF, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)
    assert struct.unpack_from("<4Q", ram, 0x500) == gdt
    assert ram[0x520:0x529] == bytes(8) + b"\xee"
    assert struct.unpack_from("<512Q", ram, 0x9000) == (0xA003,) + (0,) * 511
    assert struct.unpack_from("<512Q", ram, 0xA000) == (0xB003,) + (0,) * 511
    directory = struct.unpack_from("<512Q", ram, 0xB000)
    assert directory[:3] + directory[511:] == (0x83, 0x200083, 0x400083, 0x3FE00083)
    assert ram[0xC000] == 0xEE


def test_pvh_tables_in_memory() -> None:
    ram = bytearray(b"\xee") * 0x10000

    write_tables(FlatMemory([(0, ram)]), "pvh")

    gdt = (0, 0x00008B0000000067, 0x00CF9B000000FFFF, 0x00CF93000000FFFF)
    assert struct.unpack_from("<4Q", ram, 0x500) == gdt


def test_fpu_is_as_after_fninit() -> None:
    words = bytes(entry_fpu())

    assert words[128:130] == b"\x7f\x03"
    assert words[408:412] == b"\x80\x1f\0\0"
    assert words.count(0) == 416 - 4


def test_mtrrs_are_on_and_write_back() -> None:
    found = dict(BOOT_MSRS)

    assert (found[0x2FF], found[0x1A0], found[0x10]) == (0x806, 1, 0)
    assert len(found) == 11


def test_virtual_wire_changes_delivery_modes_alone() -> None:
    lapic = LapicState()
    ctypes.memset(ctypes.addressof(lapic), 0xFF, 1024)
    lapic.regs[0x350:0x354] = b"\x00\x00\x01\x00"
    lapic.regs[0x360:0x364] = b"\x34\x03\x01\x00"

    set_virtual_wire(lapic)

    words = bytes(lapic)
    assert words[0x350:0x354] == b"\x00\x07\x01\x00"
    assert words[0x360:0x364] == b"\x34\x04\x01\x00"
    assert words.count(0xFF) == 1024 - 8
