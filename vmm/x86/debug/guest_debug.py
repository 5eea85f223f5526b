"""Breakpoints and single steps of a vCPU by KVM: KVM api.rst "KVM_SET_GUEST_DEBUG".

``struct kvm_guest_debug { __u32 control, pad; struct { __u64 debugreg[8]; } arch; }`` for the
request, ``struct kvm_debug_exit_arch { __u32 exception, pad; __u64 pc, dr6, dr7; }`` for the exit.
Linux arch/x86/include/uapi/asm/kvm.h; the debug registers: Intel SDM vol. 3 "Debug Registers".
"""

import ctypes
import errno
import struct
from collections.abc import Sequence
from ctypes import c_uint32, c_uint64
from typing import Any, Final, Literal

from virtio.errors import ConfigurationError, HostError
from virtio.named_tuple import NamedTuple
from vmm.kvm.ioctl import ioctl, iow
from vmm.kvm.structs import sized
from vmm.x86.kvm.vcpu import Vcpu

Access = Literal["execute", "write", "access"]

HARDWARE_BREAKPOINTS: Final = 4
BREAKPOINT: Final = 0xCC
"""INT3, the instruction of one byte."""

_EFER_LMA: Final = 1 << 10

_ENABLE: Final = 1 << 0
_SINGLESTEP: Final = 1 << 1
_USE_SW_BP: Final = 1 << 16
_USE_HW_BP: Final = 1 << 17
_INJECT_BP: Final = 1 << 19
_BLOCKIRQ: Final = 1 << 20  # since Linux 5.16 (61e5f69ef08379)

_EXIT = struct.Struct("<IIQQQ")
_PAYLOAD: Final = 0x20
_DEBUG: Final = 1
_BREAKPOINT: Final = 3
_DR6_STEP: Final = 1 << 14

_DR7_ALWAYS: Final = 0x400
_TYPES: Final[dict[Access, int]] = {"execute": 0, "write": 1, "access": 3}
_LENGTHS: Final = {1: 0, 2: 1, 4: 3, 8: 2}


@sized(72)
class GuestDebug(ctypes.Structure):
    """``struct kvm_guest_debug``"""

    control: int
    debugreg: Any
    _fields_ = (("control", c_uint32), ("pad", c_uint32), ("debugreg", c_uint64 * 8))


KVM_SET_GUEST_DEBUG = iow("KVM_SET_GUEST_DEBUG", 0x9B, GuestDebug)


class HardwareBreakpoint(NamedTuple):
    """An address that a debug register watches, for so many bytes: 1 where code is executed."""

    access: Access
    address: int
    length: int


class DebugExit(NamedTuple):
    """Why KVM stopped a vCPU for its debugger.

    ``kind`` is "software" for an INT3, "hardware" with the number of the breakpoint in ``number``,
    or "step".
    """

    kind: Literal["software", "hardware", "step"]
    number: int = 0


def check_hardware_breakpoint(one: HardwareBreakpoint) -> None:
    """Raise ``ConfigurationError`` for what no debug register can watch."""
    fits = one.length in _LENGTHS and one.address % one.length == 0
    if not fits or (one.access == "execute" and one.length != 1):
        raise ConfigurationError(
            f"{one.length} bytes at {one.address:#x}: a debug register watches 1, 2, 4 or 8 that"
            " are aligned"
        )


def set_guest_debug(
    vcpu: Vcpu,
    hardware: Sequence[HardwareBreakpoint] = (),
    *,
    step: bool = False,
    alone: bool = False,
    inject: bool = False,
) -> None:
    """Have the vCPU stop at breakpoints from its next entry on, INT3 among them.

    With ``step`` it stops behind one instruction; ``alone``, where KVM can, no interrupt comes
    before that. With ``inject`` it first gets the #BP of an INT3 that was its own.
    """
    debug = GuestDebug(control=_ENABLE | _USE_SW_BP | inject * _INJECT_BP)
    if hardware:
        debug.control |= _USE_HW_BP
        debug.debugreg[7] = _DR7_ALWAYS
        for index, one in enumerate(hardware):
            debug.debugreg[index] = one.address
            kind = _LENGTHS[one.length] << 2 | _TYPES[one.access]
            debug.debugreg[7] |= 2 << 2 * index | kind << 16 + 4 * index
    if step:
        debug.control |= _SINGLESTEP | alone * _BLOCKIRQ
    try:
        ioctl(vcpu.fd, KVM_SET_GUEST_DEBUG, debug)
    except HostError as error:
        if error.errno != errno.EINVAL or not debug.control & _BLOCKIRQ:
            raise
        debug.control &= ~_BLOCKIRQ  # an older KVM
        ioctl(vcpu.fd, KVM_SET_GUEST_DEBUG, debug)


def end_guest_debug(vcpu: Vcpu) -> None:
    """Have the vCPU stop for no debugger any more."""
    ioctl(vcpu.fd, KVM_SET_GUEST_DEBUG, GuestDebug())


def debug_exit(vcpu: Vcpu) -> DebugExit:
    """Return what the ``KVM_EXIT_DEBUG`` in the vCPU's run area is about."""
    exception, _, _, dr6, _ = _EXIT.unpack_from(vcpu.run_area, _PAYLOAD)
    if exception == _BREAKPOINT:
        return DebugExit("software")
    for index in range(HARDWARE_BREAKPOINTS):
        if dr6 & 1 << index and not dr6 & _DR6_STEP:
            return DebugExit("hardware", index)
    return DebugExit("step")


def linear_position(vcpu: Vcpu) -> int:
    """Return the linear address of the next instruction: outside 64-bit code CS has a base."""
    rip, sregs = vcpu.regs().rip, vcpu.sregs()
    if sregs.efer & _EFER_LMA and sregs.cs.l:
        return rip
    return rip + sregs.cs.base & 0xFFFF_FFFF
