"""Request numbers, and the one place that calls ``ioctl``.

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


def io(name: str, number: int) -> Request:
    """Return a request without an argument."""
    return Request(name, _NONE, number, 0)


def ior(name: str, number: int, argument: type[Any]) -> Request:
    """Return a request whose ``argument`` the kernel fills in."""
    return Request(name, _READ, number, ctypes.sizeof(argument))


def iow(name: str, number: int, argument: type[Any]) -> Request:
    """Return a request whose ``argument`` the kernel reads."""
    return Request(name, _WRITE, number, ctypes.sizeof(argument))


def iowr(name: str, number: int, argument: type[Any]) -> Request:
    """Return a request whose ``argument`` the kernel reads and fills in."""
    return Request(name, _READ | _WRITE, number, ctypes.sizeof(argument))


KVM_GET_API_VERSION = io("KVM_GET_API_VERSION", 0x00)
KVM_CREATE_VM = io("KVM_CREATE_VM", 0x01)
KVM_CHECK_EXTENSION = io("KVM_CHECK_EXTENSION", 0x03)
KVM_GET_VCPU_MMAP_SIZE = io("KVM_GET_VCPU_MMAP_SIZE", 0x04)
KVM_CREATE_VCPU = io("KVM_CREATE_VCPU", 0x41)
KVM_GET_DIRTY_LOG = iow("KVM_GET_DIRTY_LOG", 0x42, structs.DirtyLog)
KVM_SET_USER_MEMORY_REGION = iow("KVM_SET_USER_MEMORY_REGION", 0x46, structs.UserspaceMemoryRegion)
KVM_IRQ_LINE = iow("KVM_IRQ_LINE", 0x61, structs.IrqLevel)
KVM_SET_GSI_ROUTING = iow("KVM_SET_GSI_ROUTING", 0x6A, structs.IrqRoutingHead)
KVM_IRQFD = iow("KVM_IRQFD", 0x76, structs.Irqfd)
KVM_IOEVENTFD = iow("KVM_IOEVENTFD", 0x79, structs.Ioeventfd)
KVM_RUN = io("KVM_RUN", 0x80)
KVM_SET_SIGNAL_MASK = iow("KVM_SET_SIGNAL_MASK", 0x8B, structs.SignalMaskHeader)
KVM_GET_MP_STATE = ior("KVM_GET_MP_STATE", 0x98, structs.MpState)
KVM_SET_MP_STATE = iow("KVM_SET_MP_STATE", 0x99, structs.MpState)
KVM_SIGNAL_MSI = iow("KVM_SIGNAL_MSI", 0xA5, structs.Msi)


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
    """Return the bytes that a ``KVM_GET_...`` request fills in."""
    buffer = ctypes.create_string_buffer(request.size)
    ioctl(fd, request, buffer)
    return buffer.raw


def set_bytes(fd: int, request: Request, data: bytes) -> None:
    """Perform a ``KVM_SET_...`` request with bytes of :func:`get_bytes`."""
    if len(data) < request.size:
        raise HostError(request.name, errno.EINVAL, f"{len(data)} bytes, {request.size} are needed")
    ioctl(fd, request, ctypes.create_string_buffer(data, len(data)))
