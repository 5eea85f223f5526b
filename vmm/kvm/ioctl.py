"""ioctl request numbers and the one place that calls ``ioctl``.

Numbers are computed from direction, type, number and size as ``asm-generic/ioctl.h`` does it. The
call goes through ctypes: ``fcntl.ioctl`` takes no integer above 2^31, keeps the GIL for large
structures, and on newer CPythons restarts a call that was interrupted.
"""

import ctypes
import errno
from typing import Any, Final

from virtio.errors import HostError
from vmm.kvm import structs

_NONE: Final = 0
_WRITE: Final = 1
_READ: Final = 2
KVMIO: Final = 0xAE


class Request:
    """One KVM ioctl: its request ``number``, its published ``name`` (``KVM_RUN``), and the ``size``
    of its argument in bytes.
    """

    __slots__ = ("name", "number", "size")

    def __init__(self, name: str, direction: int, number: int, size: int) -> None:
        self.name = name
        self.size = size
        self.number = direction << 30 | size << 16 | KVMIO << 8 | number


def _io(name: str, number: int) -> Request:
    return Request(name, _NONE, number, 0)


def _ior(name: str, number: int, argument: type[Any]) -> Request:
    return Request(name, _READ, number, ctypes.sizeof(argument))


def _iow(name: str, number: int, argument: type[Any]) -> Request:
    return Request(name, _WRITE, number, ctypes.sizeof(argument))


def _iowr(name: str, number: int, argument: type[Any]) -> Request:
    return Request(name, _READ | _WRITE, number, ctypes.sizeof(argument))


KVM_GET_API_VERSION = _io("KVM_GET_API_VERSION", 0x00)
KVM_CREATE_VM = _io("KVM_CREATE_VM", 0x01)
KVM_GET_MSR_INDEX_LIST = _iowr("KVM_GET_MSR_INDEX_LIST", 0x02, structs.MsrListHeader)
KVM_CHECK_EXTENSION = _io("KVM_CHECK_EXTENSION", 0x03)
KVM_GET_VCPU_MMAP_SIZE = _io("KVM_GET_VCPU_MMAP_SIZE", 0x04)
KVM_GET_SUPPORTED_CPUID = _iowr("KVM_GET_SUPPORTED_CPUID", 0x05, structs.Cpuid2Header)
KVM_CREATE_VCPU = _io("KVM_CREATE_VCPU", 0x41)
KVM_SET_USER_MEMORY_REGION = _iow("KVM_SET_USER_MEMORY_REGION", 0x46, structs.UserspaceMemoryRegion)
KVM_SET_TSS_ADDR = _io("KVM_SET_TSS_ADDR", 0x47)
KVM_CREATE_IRQCHIP = _io("KVM_CREATE_IRQCHIP", 0x60)
KVM_GET_IRQCHIP = _iowr("KVM_GET_IRQCHIP", 0x62, structs.Irqchip)
KVM_SET_IRQCHIP = _ior("KVM_SET_IRQCHIP", 0x63, structs.Irqchip)
KVM_IRQFD = _iow("KVM_IRQFD", 0x76, structs.Irqfd)
KVM_CREATE_PIT2 = _iow("KVM_CREATE_PIT2", 0x77, structs.PitConfig)
KVM_IOEVENTFD = _iow("KVM_IOEVENTFD", 0x79, structs.Ioeventfd)
KVM_SET_CLOCK = _iow("KVM_SET_CLOCK", 0x7B, structs.ClockData)
KVM_GET_CLOCK = _ior("KVM_GET_CLOCK", 0x7C, structs.ClockData)
KVM_RUN = _io("KVM_RUN", 0x80)
KVM_GET_REGS = _ior("KVM_GET_REGS", 0x81, structs.Regs)
KVM_SET_REGS = _iow("KVM_SET_REGS", 0x82, structs.Regs)
KVM_GET_SREGS = _ior("KVM_GET_SREGS", 0x83, structs.Sregs)
KVM_SET_SREGS = _iow("KVM_SET_SREGS", 0x84, structs.Sregs)
KVM_TRANSLATE = _iowr("KVM_TRANSLATE", 0x85, structs.Translation)
KVM_GET_MSRS = _iowr("KVM_GET_MSRS", 0x88, structs.MsrsHeader)
KVM_SET_MSRS = _iow("KVM_SET_MSRS", 0x89, structs.MsrsHeader)
KVM_SET_SIGNAL_MASK = _iow("KVM_SET_SIGNAL_MASK", 0x8B, structs.SignalMaskHeader)
KVM_SET_FPU = _iow("KVM_SET_FPU", 0x8D, structs.Fpu)
KVM_GET_LAPIC = _ior("KVM_GET_LAPIC", 0x8E, structs.LapicState)
KVM_SET_LAPIC = _iow("KVM_SET_LAPIC", 0x8F, structs.LapicState)
KVM_SET_CPUID2 = _iow("KVM_SET_CPUID2", 0x90, structs.Cpuid2Header)
KVM_GET_CPUID2 = _iowr("KVM_GET_CPUID2", 0x91, structs.Cpuid2Header)
KVM_GET_MP_STATE = _ior("KVM_GET_MP_STATE", 0x98, structs.MpState)
KVM_SET_MP_STATE = _iow("KVM_SET_MP_STATE", 0x99, structs.MpState)
KVM_GET_VCPU_EVENTS = _ior("KVM_GET_VCPU_EVENTS", 0x9F, structs.VcpuEvents)
KVM_GET_PIT2 = _ior("KVM_GET_PIT2", 0x9F, structs.PitState2)
KVM_SET_VCPU_EVENTS = _iow("KVM_SET_VCPU_EVENTS", 0xA0, structs.VcpuEvents)
KVM_SET_PIT2 = _iow("KVM_SET_PIT2", 0xA0, structs.PitState2)
KVM_GET_DEBUGREGS = _ior("KVM_GET_DEBUGREGS", 0xA1, structs.DebugRegs)
KVM_SET_DEBUGREGS = _iow("KVM_SET_DEBUGREGS", 0xA2, structs.DebugRegs)
KVM_SET_TSC_KHZ = _io("KVM_SET_TSC_KHZ", 0xA2)
KVM_GET_TSC_KHZ = _io("KVM_GET_TSC_KHZ", 0xA3)
KVM_GET_XSAVE = _ior("KVM_GET_XSAVE", 0xA4, structs.Xsave)
KVM_SET_XSAVE = _iow("KVM_SET_XSAVE", 0xA5, structs.Xsave)
KVM_GET_XCRS = _ior("KVM_GET_XCRS", 0xA6, structs.Xcrs)
KVM_SET_XCRS = _iow("KVM_SET_XCRS", 0xA7, structs.Xcrs)
KVM_KVMCLOCK_CTRL = _io("KVM_KVMCLOCK_CTRL", 0xAD)


_libc = ctypes.CDLL(None, use_errno=True)
_ioctl = _libc.ioctl
_ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


def try_ioctl(fd: int, request: Request, argument: int = 0) -> int:
    """Perform ``request`` once and return its result, or minus the errno. The GIL is released."""
    result: int = _ioctl(fd, request.number, argument)
    return result if result >= 0 else -ctypes.get_errno()


def ioctl(fd: int, request: Request, argument: Any = 0) -> int:
    """Perform ``request`` on ``fd``; an error raises :class:`HostError` with errno and name.

    ``argument`` is an int, or a ctypes object that the kernel reads or fills in place.
    """
    value = argument if isinstance(argument, int) else ctypes.addressof(argument)
    result = try_ioctl(fd, request, value)
    if result < 0:
        raise HostError(request.name, -result)
    return result


def get_bytes(fd: int, request: Request) -> bytes:
    """Return what a ``KVM_GET_...`` request fills in, as bytes that nobody looks into."""
    buffer = ctypes.create_string_buffer(request.size)
    ioctl(fd, request, buffer)
    return buffer.raw


def set_bytes(fd: int, request: Request, data: bytes) -> None:
    """Perform a ``KVM_SET_...`` request with what :func:`get_bytes` returned."""
    if len(data) < request.size:
        raise HostError(request.name, errno.EINVAL, f"{len(data)} bytes, {request.size} are needed")
    ioctl(fd, request, ctypes.create_string_buffer(data, len(data)))
