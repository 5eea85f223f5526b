"""Chapter 5: a guest in 64-bit mode, at an address that its page tables invent."""

import mmap
import struct

from vmm.course.lab import EXIT_HLT, Lab

VIRTUAL = 0x40_0000_0000  # 256 GiB; the machine has 64 KiB
CODE = bytes.fromhex(
    "48 b8 88 77 66 55 44 33 22 11"  # mov rax, 0x1122334455667788
    "48 bb 00 50 00 00 40 00 00 00"  # mov rbx, 0x4000005000
    "48 89 03"  #                      mov [rbx], rax
    "f4"  #                            hlt
)
PRESENT, WRITABLE, LARGE = 1, 2, 0x80
ROOT = 0x2000

memory = mmap.mmap(-1, 0x10000)
memory[0x1000 : 0x1000 + len(CODE)] = CODE


def set_entry(table, index, value):
    struct.pack_into("<Q", memory, table + 8 * index, value)


# The address has an index of 9 bits for each level, from bit 39, 30 and 21 on: 0, 256, 0.
set_entry(ROOT, VIRTUAL >> 39 & 511, 0x3000 | PRESENT | WRITABLE)
set_entry(0x3000, VIRTUAL >> 30 & 511, 0x4000 | PRESENT | WRITABLE)
set_entry(0x4000, VIRTUAL >> 21 & 511, 0 | PRESENT | WRITABLE | LARGE)  # 2 MiB at once


def segment(selector, kind, long):
    """Return ``struct kvm_segment``: all of memory, and 64-bit code or data."""
    fields = (kind, 1, 0, 1 - long, 1, long, 1, 0, 0, 0)
    return struct.pack("<QIH10B", 0, 0xFFFFFFFF, selector, *fields)


def enter_long_mode(lab, root):
    special = lab.special_registers()
    special[0:24] = segment(8, 11, 1)  # code
    for place in (24, 48, 72, 96, 120):  # data: ds, es, fs, gs, ss
        special[place : place + 24] = segment(16, 3, 0)
    # cr0: protection and paging; cr2; cr3: the root; cr4: PAE; cr8; efer: long mode.
    struct.pack_into("<6Q", special, 224, 0x80000011, 0, root, 0x20, 0, 0x500)
    lab.set_special_registers(special)


with Lab() as lab:
    lab.add_slot(0, memory)
    enter_long_mode(lab, ROOT)
    lab.set_registers(rip=VIRTUAL + 0x1000)
    reason = lab.run()
    assert reason == EXIT_HLT, reason
    print(f"rip is {lab.registers()['rip']:#x} at the end")
    print(f"at 0x5000 there is {int.from_bytes(memory[0x5000:0x5008], 'little'):#x}")
