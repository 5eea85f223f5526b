"""The interrupt chips, the timer and the clock that KVM has for a PC: structures and requests.

KVM api.rst "KVM_CREATE_IRQCHIP", "KVM_CREATE_PIT2", "KVM_GET_CLOCK", "KVM_GET_LAPIC".
"""

import ctypes
from ctypes import c_uint8, c_uint32, c_uint64
from typing import Any

from vmm.kvm.ioctl import io, ior, iow, iowr
from vmm.kvm.structs import sized


@sized(1024)
class LapicState(ctypes.Structure):
    """``struct kvm_lapic_state { char regs[0x400]; }``"""

    regs: Any
    _fields_ = (("regs", c_uint8 * 0x400),)


@sized(64)
class PitConfig(ctypes.Structure):
    """``struct kvm_pit_config { __u32 flags; __u32 pad[15]; }``"""

    flags: int
    _fields_ = (("flags", c_uint32), ("pad", c_uint32 * 15))


@sized(520)
class Irqchip(ctypes.Structure):
    """``struct kvm_irqchip { __u32 chip_id, pad; union { char dummy[512]; ... } chip; }``"""

    chip_id: int
    chip: Any
    _fields_ = (("chip_id", c_uint32), ("pad", c_uint32), ("chip", c_uint8 * 512))


@sized(112)
class PitState2(ctypes.Structure):
    """``struct kvm_pit_state2 { struct kvm_pit_channel_state channels[3]; __u32 flags; __u32
    reserved[9]; }``; a channel has 24 bytes.
    """

    flags: int
    _fields_ = (("channels", c_uint8 * 72), ("flags", c_uint32), ("reserved", c_uint32 * 9))


@sized(48)
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


KVM_SET_TSS_ADDR = io("KVM_SET_TSS_ADDR", 0x47)
KVM_CREATE_IRQCHIP = io("KVM_CREATE_IRQCHIP", 0x60)
KVM_GET_IRQCHIP = iowr("KVM_GET_IRQCHIP", 0x62, Irqchip)
KVM_SET_IRQCHIP = ior("KVM_SET_IRQCHIP", 0x63, Irqchip)
KVM_CREATE_PIT2 = iow("KVM_CREATE_PIT2", 0x77, PitConfig)
KVM_SET_CLOCK = iow("KVM_SET_CLOCK", 0x7B, ClockData)
KVM_GET_CLOCK = ior("KVM_GET_CLOCK", 0x7C, ClockData)
KVM_GET_LAPIC = ior("KVM_GET_LAPIC", 0x8E, LapicState)
KVM_SET_LAPIC = iow("KVM_SET_LAPIC", 0x8F, LapicState)
KVM_GET_PIT2 = ior("KVM_GET_PIT2", 0x9F, PitState2)
KVM_SET_PIT2 = iow("KVM_SET_PIT2", 0xA0, PitState2)
