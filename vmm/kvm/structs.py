"""The structures of ``linux/kvm.h`` that cross an ioctl on every architecture.

Each class shows the C declaration it mirrors, and its size is checked where it is declared.
Structures that end in a flexible array are declared by their fixed head.
"""

import ctypes
from ctypes import c_char, c_int32, c_uint8, c_uint32, c_uint64
from typing import Any


def sized(size: int) -> Any:
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


@sized(4)
class MpState(ctypes.Structure):
    """``struct kvm_mp_state { __u32 mp_state; }``"""

    mp_state: int
    _fields_ = (("mp_state", c_uint32),)


@sized(4)
class SignalMaskHeader(ctypes.Structure):
    """Head of ``struct kvm_signal_mask { __u32 len; __u8 sigset[]; }``"""

    len: int
    _fields_ = (("len", c_uint32),)


@sized(32)
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


@sized(16)
class DirtyLog(ctypes.Structure):
    """``struct kvm_dirty_log { __u32 slot, padding1; union { void *dirty_bitmap; __u64 padding2; };
    }``
    """

    slot: int
    dirty_bitmap: int
    _fields_ = (("slot", c_uint32), ("padding1", c_uint32), ("dirty_bitmap", c_uint64))


@sized(32)
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


@sized(64)
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


@sized(8)
class IrqLevel(ctypes.Structure):
    """``struct kvm_irq_level { __u32 irq, level; }``"""

    irq: int
    level: int
    _fields_ = (("irq", c_uint32), ("level", c_uint32))


@sized(32)
class Msi(ctypes.Structure):
    """``struct kvm_msi { __u32 address_lo, address_hi, data, flags, devid; __u8 pad[12]; }``"""

    address_lo: int
    address_hi: int
    data: int
    flags: int
    _fields_ = (
        ("address_lo", c_uint32),
        ("address_hi", c_uint32),
        ("data", c_uint32),
        ("flags", c_uint32),
        ("devid", c_uint32),
        ("pad", c_uint8 * 12),
    )


@sized(8)
class IrqRoutingHead(ctypes.Structure):
    """Head of ``struct kvm_irq_routing { __u32 nr, flags; struct kvm_irq_routing_entry
    entries[]; }``
    """

    nr: int
    flags: int
    _fields_ = (("nr", c_uint32), ("flags", c_uint32))


@sized(48)
class IrqRoutingEntry(ctypes.Structure):
    """``struct kvm_irq_routing_entry { __u32 gsi, type, flags, pad; union { struct
    kvm_irq_routing_irqchip { __u32 irqchip, pin; }; struct kvm_irq_routing_msi { __u32
    address_lo, address_hi, data, devid; }; __u32 pad[8]; } u; }``

    ``u`` are the words of the union.
    """

    gsi: int
    type: int
    flags: int
    u: Any
    _fields_ = (
        ("gsi", c_uint32),
        ("type", c_uint32),
        ("flags", c_uint32),
        ("pad", c_uint32),
        ("u", c_uint32 * 8),
    )
