"""Model-specific registers as KVM takes and gives them: the structures and the requests.

KVM api.rst "KVM_GET_MSRS", "KVM_SET_MSRS", "KVM_GET_MSR_INDEX_LIST".
"""

import ctypes
import errno
from ctypes import c_uint32, c_uint64

from virtio.errors import HostError
from vmm.kvm.ioctl import ioctl, iow, iowr
from vmm.kvm.structs import flexible, sized
from vmm.kvm.system import Kvm


@sized(16)
class MsrEntry(ctypes.Structure):
    """``struct kvm_msr_entry { __u32 index, reserved; __u64 data; }``"""

    index: int
    data: int
    _fields_ = (("index", c_uint32), ("reserved", c_uint32), ("data", c_uint64))


@sized(8)
class MsrsHeader(ctypes.Structure):
    """Head of ``struct kvm_msrs { __u32 nmsrs, pad; struct kvm_msr_entry entries[]; }``"""

    nmsrs: int
    _fields_ = (("nmsrs", c_uint32), ("pad", c_uint32))


@sized(4)
class MsrListHeader(ctypes.Structure):
    """Head of ``struct kvm_msr_list { __u32 nmsrs; __u32 indices[]; }``"""

    nmsrs: int
    _fields_ = (("nmsrs", c_uint32),)


KVM_GET_MSR_INDEX_LIST = iowr("KVM_GET_MSR_INDEX_LIST", 0x02, MsrListHeader)
KVM_GET_MSRS = iowr("KVM_GET_MSRS", 0x88, MsrsHeader)
KVM_SET_MSRS = iow("KVM_SET_MSRS", 0x89, MsrsHeader)


def msr_indices(kvm: Kvm) -> list[int]:
    """Return the MSRs that make up the state of a vCPU on this host ("KVM_GET_MSR_INDEX_LIST")."""
    count = 0
    while True:
        table = flexible(MsrListHeader, ctypes.c_uint32, count)
        table.head.nmsrs = count
        try:
            ioctl(kvm.fd, KVM_GET_MSR_INDEX_LIST, table)
        except HostError as error:
            if error.errno != errno.E2BIG or table.head.nmsrs <= count:
                raise
            count = table.head.nmsrs
        else:
            return list(table.entries[: table.head.nmsrs])
