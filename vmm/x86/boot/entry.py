"""The state in which a vCPU enters the kernel: registers, descriptor and page tables, MSRs, LAPIC.

Implements Linux x86 boot.rst "64-bit Boot Protocol", the Xen x86/HVM direct boot ABI and the
Multiboot specifications, "Machine state"; a plain ELF program is entered as a C function. Segment
and control register layouts are those of the Intel SDM vol. 3.
"""

import struct
from typing import Final

from virtio.memory import GuestMemory
from virtio.named_tuple import NamedTuple
from vmm.x86 import layout
from vmm.x86.boot.kernel import Protocol
from vmm.x86.kvm.chips import LapicState
from vmm.x86.kvm.registers import Fpu, Regs, Segment, Sregs

# The selectors are __BOOT_CS and __BOOT_DS of the boot protocol.
TSS, CODE, DATA = 0x08, 0x10, 0x18
# Null, task state, code, data.
GDT_64 = (0, 0x008F8B00_0000FFFF, 0x00AF9B00_0000FFFF, 0x00CF9300_0000FFFF)
GDT_32 = (0, 0x00008B00_00000067, 0x00CF9B00_0000FFFF, 0x00CF9300_0000FFFF)

RFLAGS_RESERVED = 0x2
CR0_PE, CR0_ET, CR0_PG = 0x1, 0x10, 0x8000_0000
CR4_PAE = 0x20
EFER_LME, EFER_LMA = 0x100, 0x400

PRESENT_WRITABLE = 0x3
LARGE_PAGE = 0x80
LARGE_PAGE_SIZE = 2 << 20

# MSRs written to every vCPU before it runs, after its CPUID. All but two have their reset values.
BOOT_MSRS: tuple[tuple[int, int], ...] = (
    (0x174, 0),  # IA32_SYSENTER_CS
    (0x175, 0),  # IA32_SYSENTER_ESP
    (0x176, 0),  # IA32_SYSENTER_EIP
    (0xC000_0081, 0),  # STAR
    (0xC000_0082, 0),  # LSTAR
    (0xC000_0083, 0),  # CSTAR
    (0xC000_0084, 0),  # SYSCALL_MASK
    (0xC000_0102, 0),  # KERNEL_GS_BASE
    (0x10, 0),  # IA32_TIME_STAMP_COUNTER
    (0x1A0, 1),  # IA32_MISC_ENABLE: fast string operations
    (0x2FF, 0x806),  # IA32_MTRR_DEF_TYPE: enabled, write-back; off, Linux would say so in its log
)

LVT_LINT0, LVT_LINT1 = 0x350, 0x360
DELIVERY_MODE = 0x700
DELIVERY_NMI, DELIVERY_EXTINT = 0x400, 0x700


class EntryPoint(NamedTuple):
    """Where and how the boot vCPU starts: by which protocol, and its registers that are not zero.

    Linux' 64-bit protocol passes the zero page in ``rsi``, PVH its start info in ``rbx``; a plain
    ELF program has that in ``rdi``, as the argument of a function. Multiboot passes a magic number
    in ``rax`` and the information in ``rbx``.
    """

    protocol: Protocol
    rip: int
    rsi: int = 0
    rdi: int = 0
    rax: int = 0
    rbx: int = 0
    rsp: int = 0


_MAPPED_GIB: Final[dict[str, int]] = {"linux64": 1, "elf64": 4}
"""How much memory the page tables of a protocol map 1:1; any other one has paging off."""


def write_tables(memory: GuestMemory, protocol: Protocol) -> None:
    """Write GDT and IDT and, for a 64-bit entry, page tables that map the first GiBs 1:1."""
    mapped = _MAPPED_GIB.get(protocol, 0)
    _write_words(memory, layout.BOOT_GDT, GDT_64 if mapped else GDT_32)
    _write_words(memory, layout.BOOT_IDT, (0,))
    if mapped:
        directories = [
            layout.PD + gib * layout.PAGE_SIZE | PRESENT_WRITABLE for gib in range(mapped)
        ]
        _write_words(memory, layout.PML4, (layout.PDPT | PRESENT_WRITABLE, *(0,) * 511))
        _write_words(memory, layout.PDPT, (*directories, *(0,) * (512 - mapped)))
        flags, pages = PRESENT_WRITABLE | LARGE_PAGE, range(mapped * 512)
        _write_words(memory, layout.PD, tuple(i * LARGE_PAGE_SIZE | flags for i in pages))


def entry_regs(entry: EntryPoint) -> Regs:
    """Return the general registers at the entry point."""
    return Regs(
        rip=entry.rip,
        rsi=entry.rsi,
        rdi=entry.rdi,
        rax=entry.rax,
        rbx=entry.rbx,
        rsp=entry.rsp,
        rbp=entry.rsp,
        rflags=RFLAGS_RESERVED,
    )


def set_entry_sregs(sregs: Sregs, entry: EntryPoint) -> None:
    """Turn what KVM_GET_SREGS gave into the state at the entry point, in place.

    APIC base, CR8 and the pending interrupts stay: they are the vCPU's own.
    """
    is_64_bit = entry.protocol in _MAPPED_GIB
    gdt = GDT_64 if is_64_bit else GDT_32
    sregs.cs = segment(gdt[CODE // 8], CODE)
    for name in ("ds", "es", "fs", "gs", "ss"):
        setattr(sregs, name, segment(gdt[DATA // 8], DATA))
    sregs.tr = segment(gdt[TSS // 8], TSS)
    sregs.gdt.base, sregs.gdt.limit = layout.BOOT_GDT, len(gdt) * 8 - 1
    sregs.idt.base, sregs.idt.limit = layout.BOOT_IDT, 7
    if is_64_bit:
        sregs.cr0 |= CR0_PE | CR0_PG
        sregs.cr3 = layout.PML4
        sregs.cr4 |= CR4_PAE
        sregs.efer |= EFER_LME | EFER_LMA
    else:
        sregs.cr0, sregs.cr4, sregs.efer = CR0_PE | CR0_ET, 0, 0


def segment(descriptor: int, selector: int) -> Segment:
    """Return the segment register that holds a GDT entry.

    KVM takes the limit in bytes and does not scale it by the granularity bit.
    """
    limit = descriptor & 0xFFFF | descriptor >> 32 & 0xF0000
    granular = descriptor >> 55 & 1
    present = descriptor >> 47 & 1
    return Segment(
        base=descriptor >> 16 & 0xFF_FFFF | descriptor >> 32 & 0xFF00_0000,
        limit=limit << 12 | 0xFFF if granular else limit,
        selector=selector,
        type=descriptor >> 40 & 0xF,
        s=descriptor >> 44 & 1,
        dpl=descriptor >> 45 & 3,
        present=present,
        avl=descriptor >> 52 & 1,
        l=descriptor >> 53 & 1,
        db=descriptor >> 54 & 1,
        g=granular,
        unusable=1 - present,
    )


def entry_fpu() -> Fpu:
    """Return the FPU as after FNINIT, with all SSE exceptions masked."""
    return Fpu(fcw=0x37F, mxcsr=0x1F80)


def set_virtual_wire(lapic: LapicState) -> None:
    """Let 8259 interrupts through LINT0 and NMIs through LINT1, as a BIOS would leave it.

    Intel MultiProcessor Specification 1.4 "Virtual Wire Mode".
    """
    for offset, mode in ((LVT_LINT0, DELIVERY_EXTINT), (LVT_LINT1, DELIVERY_NMI)):
        word = int.from_bytes(bytes(lapic.regs[offset : offset + 4]), "little")
        changed = word & ~DELIVERY_MODE | mode
        lapic.regs[offset : offset + 4] = changed.to_bytes(4, "little")


def _write_words(memory: GuestMemory, address: int, words: tuple[int, ...]) -> None:
    memory.view(address, len(words) * 8)[:] = struct.pack(f"<{len(words)}Q", *words)
