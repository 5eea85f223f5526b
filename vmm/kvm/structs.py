"""The structures of ``linux/kvm.h`` and ``asm/kvm.h`` (x86-64) that cross an ioctl.

Each class shows the C declaration it mirrors, and its size is checked where it is declared.
Structures that end in a flexible array are declared by their fixed head.
"""

import ctypes
from ctypes import c_char, c_int32, c_uint8, c_uint16, c_uint32, c_uint64
from typing import Any


def _sized(size: int) -> Any:
    """Check that the decorated structure has ``size`` bytes, as in the kernel's header."""

    def check(cls: type[ctypes.Structure]) -> type[ctypes.Structure]:
        if ctypes.sizeof(cls) != size:
            raise TypeError(f"{cls.__name__} has {ctypes.sizeof(cls)} bytes, not {size}")
        return cls

    return check


def flexible(head: type[ctypes.Structure], entry: type[Any], count: int) -> Any:
    """Return a zeroed structure of ``head`` followed by ``count`` times ``entry``.

    Its two fields are named ``head`` and ``entries``.
    """

    class Flexible(ctypes.Structure):
        _fields_ = (("head", head), ("entries", entry * count))

    return Flexible()


@_sized(144)
class Regs(ctypes.Structure):
    """``struct kvm_regs { __u64 rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8 ... r15, rip,
    rflags; }``
    """

    rax: int
    rbx: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    rsp: int
    rbp: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    r15: int
    rip: int
    rflags: int
    _fields_ = tuple(
        (name, c_uint64)
        for name in (
            *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
            *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
            *("rip", "rflags"),
        )
    )


@_sized(24)
class Segment(ctypes.Structure):
    """``struct kvm_segment { __u64 base; __u32 limit; __u16 selector; __u8 type, present, dpl, db,
    s, l, g, avl, unusable, padding; }``; ``limit`` is in bytes, never scaled by ``g``.
    """

    base: int
    limit: int
    selector: int
    type: int
    present: int
    dpl: int
    db: int
    s: int
    l: int  # noqa: E741 - the kernel's name
    g: int
    avl: int
    unusable: int
    padding: int
    _fields_ = (
        ("base", c_uint64),
        ("limit", c_uint32),
        ("selector", c_uint16),
        ("type", c_uint8),
        ("present", c_uint8),
        ("dpl", c_uint8),
        ("db", c_uint8),
        ("s", c_uint8),
        ("l", c_uint8),
        ("g", c_uint8),
        ("avl", c_uint8),
        ("unusable", c_uint8),
        ("padding", c_uint8),
    )


@_sized(16)
class Dtable(ctypes.Structure):
    """``struct kvm_dtable { __u64 base; __u16 limit; __u16 padding[3]; }``"""

    base: int
    limit: int
    _fields_ = (("base", c_uint64), ("limit", c_uint16), ("padding", c_uint16 * 3))


@_sized(312)
class Sregs(ctypes.Structure):
    """``struct kvm_sregs { struct kvm_segment cs, ds, es, fs, gs, ss, tr, ldt; struct kvm_dtable
    gdt, idt; __u64 cr0, cr2, cr3, cr4, cr8, efer, apic_base; __u64 interrupt_bitmap[4]; }``
    """

    cs: Segment
    ds: Segment
    es: Segment
    fs: Segment
    gs: Segment
    ss: Segment
    tr: Segment
    ldt: Segment
    gdt: Dtable
    idt: Dtable
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    cr8: int
    efer: int
    apic_base: int
    _fields_ = (
        *((name, Segment) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
        ("gdt", Dtable),
        ("idt", Dtable),
        *((name, c_uint64) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")),
        ("interrupt_bitmap", c_uint64 * 4),
    )


@_sized(416)
class Fpu(ctypes.Structure):
    """``struct kvm_fpu { __u8 fpr[8][16]; __u16 fcw, fsw; __u8 ftwx, pad1; __u16 last_opcode;
    __u64 last_ip, last_dp; __u8 xmm[16][16]; __u32 mxcsr, pad2; }``
    """

    fcw: int
    fsw: int
    mxcsr: int
    _fields_ = (
        ("fpr", c_uint8 * 128),
        ("fcw", c_uint16),
        ("fsw", c_uint16),
        ("ftwx", c_uint8),
        ("pad1", c_uint8),
        ("last_opcode", c_uint16),
        ("last_ip", c_uint64),
        ("last_dp", c_uint64),
        ("xmm", c_uint8 * 256),
        ("mxcsr", c_uint32),
        ("pad2", c_uint32),
    )


@_sized(1024)
class LapicState(ctypes.Structure):
    """``struct kvm_lapic_state { char regs[0x400]; }``"""

    regs: Any
    _fields_ = (("regs", c_uint8 * 0x400),)


@_sized(40)
class CpuidEntry2(ctypes.Structure):
    """``struct kvm_cpuid_entry2 { __u32 function, index, flags, eax, ebx, ecx, edx; __u32
    padding[3]; }``
    """

    function: int
    index: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int
    _fields_ = (
        *((name, c_uint32) for name in ("function", "index", "flags", "eax", "ebx", "ecx", "edx")),
        ("padding", c_uint32 * 3),
    )


@_sized(8)
class Cpuid2Header(ctypes.Structure):
    """Head of ``struct kvm_cpuid2 { __u32 nent, padding; struct kvm_cpuid_entry2 entries[]; }``"""

    nent: int
    _fields_ = (("nent", c_uint32), ("padding", c_uint32))


@_sized(16)
class MsrEntry(ctypes.Structure):
    """``struct kvm_msr_entry { __u32 index, reserved; __u64 data; }``"""

    index: int
    data: int
    _fields_ = (("index", c_uint32), ("reserved", c_uint32), ("data", c_uint64))


@_sized(8)
class MsrsHeader(ctypes.Structure):
    """Head of ``struct kvm_msrs { __u32 nmsrs, pad; struct kvm_msr_entry entries[]; }``"""

    nmsrs: int
    _fields_ = (("nmsrs", c_uint32), ("pad", c_uint32))


@_sized(4)
class MpState(ctypes.Structure):
    """``struct kvm_mp_state { __u32 mp_state; }``"""

    mp_state: int
    _fields_ = (("mp_state", c_uint32),)


@_sized(24)
class Translation(ctypes.Structure):
    """``struct kvm_translation { __u64 linear_address, physical_address; __u8 valid, writeable,
    usermode; __u8 pad[5]; }``
    """

    linear_address: int
    physical_address: int
    valid: int
    writeable: int
    usermode: int
    _fields_ = (
        ("linear_address", c_uint64),
        ("physical_address", c_uint64),
        ("valid", c_uint8),
        ("writeable", c_uint8),
        ("usermode", c_uint8),
        ("pad", c_uint8 * 5),
    )


@_sized(4)
class SignalMaskHeader(ctypes.Structure):
    """Head of ``struct kvm_signal_mask { __u32 len; __u8 sigset[]; }``"""

    len: int
    _fields_ = (("len", c_uint32),)


class _Exception(ctypes.Structure):
    injected: int
    nr: int
    has_error_code: int
    pending: int
    error_code: int
    _fields_ = (
        ("injected", c_uint8),
        ("nr", c_uint8),
        ("has_error_code", c_uint8),
        ("pending", c_uint8),
        ("error_code", c_uint32),
    )


@_sized(64)
class VcpuEvents(ctypes.Structure):
    """``struct kvm_vcpu_events { struct { __u8 injected, nr, has_error_code, pending; __u32
    error_code; } exception; ... }``: interrupt, NMI, SIPI, SMI and triple-fault parts are carried
    unread.
    """

    exception: _Exception
    _fields_ = (("exception", _Exception), ("rest", c_uint8 * 56))


@_sized(32)
class UserspaceMemoryRegion(ctypes.Structure):
    """``struct kvm_userspace_memory_region { __u32 slot, flags; __u64 guest_phys_addr,
    memory_size, userspace_addr; }``
    """

    slot: int
    flags: int
    guest_phys_addr: int
    memory_size: int
    userspace_addr: int
    _fields_ = (
        ("slot", c_uint32),
        ("flags", c_uint32),
        ("guest_phys_addr", c_uint64),
        ("memory_size", c_uint64),
        ("userspace_addr", c_uint64),
    )


@_sized(64)
class PitConfig(ctypes.Structure):
    """``struct kvm_pit_config { __u32 flags; __u32 pad[15]; }``"""

    flags: int
    _fields_ = (("flags", c_uint32), ("pad", c_uint32 * 15))


@_sized(32)
class Irqfd(ctypes.Structure):
    """``struct kvm_irqfd { __u32 fd, gsi, flags, resamplefd; __u8 pad[16]; }``"""

    fd: int
    gsi: int
    flags: int
    _fields_ = (
        ("fd", c_uint32),
        ("gsi", c_uint32),
        ("flags", c_uint32),
        ("resamplefd", c_uint32),
        ("pad", c_uint8 * 16),
    )


@_sized(64)
class Ioeventfd(ctypes.Structure):
    """``struct kvm_ioeventfd { __u64 datamatch, addr; __u32 len; __s32 fd; __u32 flags; __u8
    pad[36]; }``
    """

    datamatch: int
    addr: int
    len: int
    fd: int
    flags: int
    _fields_ = (
        ("datamatch", c_uint64),
        ("addr", c_uint64),
        ("len", c_uint32),
        ("fd", c_int32),
        ("flags", c_uint32),
        ("pad", c_char * 36),
    )


@_sized(4)
class MsrListHeader(ctypes.Structure):
    """Head of ``struct kvm_msr_list { __u32 nmsrs; __u32 indices[]; }``"""

    nmsrs: int
    _fields_ = (("nmsrs", c_uint32),)


@_sized(520)
class Irqchip(ctypes.Structure):
    """``struct kvm_irqchip { __u32 chip_id, pad; union { char dummy[512]; ... } chip; }``"""

    chip_id: int
    _fields_ = (("chip_id", c_uint32), ("pad", c_uint32), ("chip", c_uint8 * 512))


@_sized(112)
class PitState2(ctypes.Structure):
    """``struct kvm_pit_state2 { struct kvm_pit_channel_state channels[3]; __u32 flags; __u32
    reserved[9]; }``; a channel has 24 bytes.
    """

    flags: int
    _fields_ = (("channels", c_uint8 * 72), ("flags", c_uint32), ("reserved", c_uint32 * 9))


@_sized(48)
class ClockData(ctypes.Structure):
    """``struct kvm_clock_data { __u64 clock; __u32 flags, pad0; __u64 realtime, host_tsc; __u32
    pad[4]; }``; ``clock`` and ``realtime`` are in nanoseconds.
    """

    clock: int
    flags: int
    realtime: int
    host_tsc: int
    _fields_ = (
        ("clock", c_uint64),
        ("flags", c_uint32),
        ("pad0", c_uint32),
        ("realtime", c_uint64),
        ("host_tsc", c_uint64),
        ("pad", c_uint32 * 4),
    )


@_sized(128)
class DebugRegs(ctypes.Structure):
    """``struct kvm_debugregs { __u64 db[4], dr6, dr7, flags, reserved[9]; }``"""

    _fields_ = (
        ("db", c_uint64 * 4),
        ("dr6", c_uint64),
        ("dr7", c_uint64),
        ("flags", c_uint64),
        ("reserved", c_uint64 * 9),
    )


@_sized(4096)
class Xsave(ctypes.Structure):
    """``struct kvm_xsave { __u32 region[1024]; __u32 extra[]; }``"""

    _fields_ = (("region", c_uint32 * 1024),)


@_sized(392)
class Xcrs(ctypes.Structure):
    """``struct kvm_xcrs { __u32 nr_xcrs, flags; struct kvm_xcr { __u32 xcr, reserved; __u64 value;
    } xcrs[16]; __u64 padding[16]; }``
    """

    _fields_ = (
        ("nr_xcrs", c_uint32),
        ("flags", c_uint32),
        ("xcrs", c_uint8 * 256),
        ("padding", c_uint64 * 16),
    )
