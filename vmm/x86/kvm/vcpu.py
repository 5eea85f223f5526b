"""The vCPU of KVM on x86: registers, CPUID, MSRs, address translation, injected exceptions.

KVM api.rst "vcpu ioctls".
"""

import ctypes
import errno
from ctypes import c_uint8, c_uint32, c_uint64

from virtio.errors import HostError
from vmm.kvm.ioctl import io, ioctl, ior, iow, iowr, try_ioctl
from vmm.kvm.structs import flexible, sized
from vmm.kvm.vcpu import VcpuFd
from vmm.x86.kvm.chips import KVM_GET_LAPIC, KVM_SET_LAPIC, LapicState
from vmm.x86.kvm.cpuid import KVM_SET_CPUID2, Cpuid2Header, CpuidEntry2
from vmm.x86.kvm.msr import KVM_GET_MSRS, KVM_SET_MSRS, MsrEntry, MsrsHeader
from vmm.x86.kvm.registers import (
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_SET_FPU,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    Fpu,
    Regs,
    Sregs,
)


@sized(24)
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


@sized(64)
class VcpuEvents(ctypes.Structure):
    """``struct kvm_vcpu_events { struct { __u8 injected, nr, has_error_code, pending; __u32
    error_code; } exception; ... }``: interrupt, NMI, SIPI, SMI and triple-fault parts are carried
    unread.
    """

    exception: _Exception
    _fields_ = (("exception", _Exception), ("rest", c_uint8 * 56))


KVM_TRANSLATE = iowr("KVM_TRANSLATE", 0x85, Translation)
KVM_GET_VCPU_EVENTS = ior("KVM_GET_VCPU_EVENTS", 0x9F, VcpuEvents)
KVM_SET_VCPU_EVENTS = iow("KVM_SET_VCPU_EVENTS", 0xA0, VcpuEvents)
KVM_SET_TSC_KHZ = io("KVM_SET_TSC_KHZ", 0xA2)
KVM_GET_TSC_KHZ = io("KVM_GET_TSC_KHZ", 0xA3)
KVM_KVMCLOCK_CTRL = io("KVM_KVMCLOCK_CTRL", 0xAD)


class Vcpu(VcpuFd):
    """A virtual x86 CPU of KVM."""

    def regs(self) -> Regs:
        """Return the general registers ("KVM_GET_REGS")."""
        regs = Regs()
        ioctl(self.fd, KVM_GET_REGS, regs)
        return regs

    def set_regs(self, regs: Regs) -> None:
        """Replace the general registers ("KVM_SET_REGS")."""
        ioctl(self.fd, KVM_SET_REGS, regs)

    def sregs(self) -> Sregs:
        """Return segment, table and control registers ("KVM_GET_SREGS")."""
        sregs = Sregs()
        ioctl(self.fd, KVM_GET_SREGS, sregs)
        return sregs

    def set_sregs(self, sregs: Sregs) -> None:
        """Replace segment, table and control registers ("KVM_SET_SREGS")."""
        ioctl(self.fd, KVM_SET_SREGS, sregs)

    def set_fpu(self, fpu: Fpu) -> None:
        """Replace the x87 and SSE state ("KVM_SET_FPU")."""
        ioctl(self.fd, KVM_SET_FPU, fpu)

    def lapic(self) -> LapicState:
        """Return the local APIC's register page ("KVM_GET_LAPIC")."""
        state = LapicState()
        ioctl(self.fd, KVM_GET_LAPIC, state)
        return state

    def set_lapic(self, state: LapicState) -> None:
        """Replace the local APIC's register page ("KVM_SET_LAPIC")."""
        ioctl(self.fd, KVM_SET_LAPIC, state)

    def set_cpuid(self, entries: list[CpuidEntry2]) -> None:
        """Set what CPUID answers; must precede MSRs ("KVM_SET_CPUID2")."""
        table = flexible(Cpuid2Header, CpuidEntry2, len(entries))
        table.head.nent = len(entries)
        table.entries[:] = entries
        ioctl(self.fd, KVM_SET_CPUID2, table)

    def msr(self, index: int) -> int:
        """Return one model-specific register ("KVM_GET_MSRS")."""
        table = flexible(MsrsHeader, MsrEntry, 1)
        table.head.nmsrs = 1
        table.entries[0].index = index
        if ioctl(self.fd, KVM_GET_MSRS, table) != 1:
            raise HostError(KVM_GET_MSRS.name, errno.EINVAL, f"MSR {index:#x}")
        value: int = table.entries[0].data
        return value

    def set_msrs(self, msrs: list[tuple[int, int]]) -> None:
        """Write ``(index, value)`` pairs in order; an MSR that KVM refuses is named in the error
        ("KVM_SET_MSRS").
        """
        table = flexible(MsrsHeader, MsrEntry, len(msrs))
        table.head.nmsrs = len(msrs)
        for entry, (index, value) in zip(table.entries, msrs, strict=True):
            entry.index, entry.data = index, value
        accepted = ioctl(self.fd, KVM_SET_MSRS, table)
        if accepted != len(msrs):
            refused = f"MSR {msrs[accepted][0]:#x} was refused"
            raise HostError(KVM_SET_MSRS.name, errno.EINVAL, refused)

    def translate(self, virtual: int) -> int | None:
        """Return the guest-physical address of a guest-virtual one, None if it is not mapped
        ("KVM_TRANSLATE").
        """
        translation = Translation(linear_address=virtual)
        ioctl(self.fd, KVM_TRANSLATE, translation)
        return translation.physical_address if translation.valid else None

    def inject_exception(self, vector: int, error_code: int | None = None) -> None:
        """Deliver an exception at the next entry ("KVM_SET_VCPU_EVENTS")."""
        events = VcpuEvents()
        ioctl(self.fd, KVM_GET_VCPU_EVENTS, events)
        events.exception.injected = 1
        events.exception.nr = vector
        events.exception.has_error_code = error_code is not None
        events.exception.error_code = error_code or 0
        ioctl(self.fd, KVM_SET_VCPU_EVENTS, events)

    def tell_clock(self) -> None:
        """Have kvmclock tell the guest that it did not run for a while ("KVM_KVMCLOCK_CTRL").

        A guest that has set up no kvmclock has nobody to tell: KVM then refuses with EINVAL.
        """
        result = try_ioctl(self.fd, KVM_KVMCLOCK_CTRL)
        if result not in (0, -errno.EINVAL):
            raise HostError(KVM_KVMCLOCK_CTRL.name, -result)
