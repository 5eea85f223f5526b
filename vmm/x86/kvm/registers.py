"""The register structures of ``asm/kvm.h`` and the requests that read and write them.

KVM api.rst "KVM_GET_REGS", "KVM_GET_SREGS" and their like. Each class shows the C declaration that
it mirrors.
"""

import ctypes
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64

from vmm.kvm.ioctl import ior, iow
from vmm.kvm.structs import sized


@sized(144)
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


@sized(24)
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


@sized(16)
class Dtable(ctypes.Structure):
    """``struct kvm_dtable { __u64 base; __u16 limit; __u16 padding[3]; }``"""

    base: int
    limit: int
    _fields_ = (("base", c_uint64), ("limit", c_uint16), ("padding", c_uint16 * 3))


@sized(312)
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


@sized(416)
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


@sized(128)
class DebugRegs(ctypes.Structure):
    """``struct kvm_debugregs { __u64 db[4], dr6, dr7, flags, reserved[9]; }``"""

    _fields_ = (
        ("db", c_uint64 * 4),
        ("dr6", c_uint64),
        ("dr7", c_uint64),
        ("flags", c_uint64),
        ("reserved", c_uint64 * 9),
    )


@sized(4096)
class Xsave(ctypes.Structure):
    """``struct kvm_xsave { __u32 region[1024]; __u32 extra[]; }``"""

    _fields_ = (("region", c_uint32 * 1024),)


@sized(392)
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


KVM_GET_REGS = ior("KVM_GET_REGS", 0x81, Regs)
KVM_SET_REGS = iow("KVM_SET_REGS", 0x82, Regs)
KVM_GET_SREGS = ior("KVM_GET_SREGS", 0x83, Sregs)
KVM_SET_SREGS = iow("KVM_SET_SREGS", 0x84, Sregs)
KVM_SET_FPU = iow("KVM_SET_FPU", 0x8D, Fpu)
KVM_GET_DEBUGREGS = ior("KVM_GET_DEBUGREGS", 0xA1, DebugRegs)
KVM_SET_DEBUGREGS = iow("KVM_SET_DEBUGREGS", 0xA2, DebugRegs)
KVM_GET_XSAVE = ior("KVM_GET_XSAVE", 0xA4, Xsave)
KVM_SET_XSAVE = iow("KVM_SET_XSAVE", 0xA5, Xsave)
KVM_GET_XCRS = ior("KVM_GET_XCRS", 0xA6, Xcrs)
KVM_SET_XCRS = iow("KVM_SET_XCRS", 0xA7, Xcrs)
