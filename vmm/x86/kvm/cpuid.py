"""CPUID as KVM takes and gives it: the structures, the requests, and the leaves that a host offers.

KVM api.rst "KVM_GET_SUPPORTED_CPUID", "KVM_SET_CPUID2".
"""

import ctypes
import errno
from ctypes import c_uint32

from virtio.errors import HostError
from vmm.kvm.ioctl import ioctl, iow, iowr
from vmm.kvm.structs import flexible, sized
from vmm.kvm.system import Kvm


@sized(40)
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


@sized(8)
class Cpuid2Header(ctypes.Structure):
    """Head of ``struct kvm_cpuid2 { __u32 nent, padding; struct kvm_cpuid_entry2 entries[]; }``"""

    nent: int
    _fields_ = (("nent", c_uint32), ("padding", c_uint32))


KVM_GET_SUPPORTED_CPUID = iowr("KVM_GET_SUPPORTED_CPUID", 0x05, Cpuid2Header)
KVM_SET_CPUID2 = iow("KVM_SET_CPUID2", 0x90, Cpuid2Header)
KVM_GET_CPUID2 = iowr("KVM_GET_CPUID2", 0x91, Cpuid2Header)


def supported_cpuid(kvm: Kvm) -> list[CpuidEntry2]:
    """Return the CPUID leaves that this host can give a guest ("KVM_GET_SUPPORTED_CPUID")."""
    capacity = 128
    while True:
        table = flexible(Cpuid2Header, CpuidEntry2, capacity)
        table.head.nent = capacity
        try:
            ioctl(kvm.fd, KVM_GET_SUPPORTED_CPUID, table)
        except HostError as error:
            if error.errno != errno.E2BIG or capacity > 4096:
                raise
            capacity *= 2
        else:
            return list(table.entries[: table.head.nent])
