"""The state that KVM holds of a vCPU, as a plain value, and back.

The structures go from one ioctl into another as bytes; nothing here looks into them, but for the
time-stamp counter. KVM api.rst "vcpu ioctls"; the order of restoring is the one in which each call
finds what it depends on.
"""

import ctypes
import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from virtio.errors import ConfigurationError, HostError
from virtio.saved import U32, Length, Within, check_saved
from vmm.kvm.ioctl import KVM_SET_MP_STATE, Request, get_bytes, ioctl, set_bytes
from vmm.kvm.structs import flexible
from vmm.x86.kvm.chips import KVM_GET_LAPIC, KVM_SET_LAPIC
from vmm.x86.kvm.cpuid import KVM_GET_CPUID2, KVM_SET_CPUID2, Cpuid2Header, CpuidEntry2
from vmm.x86.kvm.msr import KVM_GET_MSRS, KVM_SET_MSRS, MsrEntry, MsrsHeader
from vmm.x86.kvm.registers import (
    KVM_GET_DEBUGREGS,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_GET_XCRS,
    KVM_GET_XSAVE,
    KVM_SET_DEBUGREGS,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    KVM_SET_XCRS,
    KVM_SET_XSAVE,
    Xcrs,
)
from vmm.x86.kvm.vcpu import (
    KVM_GET_TSC_KHZ,
    KVM_GET_VCPU_EVENTS,
    KVM_SET_TSC_KHZ,
    KVM_SET_VCPU_EVENTS,
    Vcpu,
)

_CPUID_CAPACITY: Final = 256
_CPUID_ENTRY_BYTES: Final = ctypes.sizeof(CpuidEntry2)
_MSR_CAPACITY: Final = 256  # of one call: Linux arch/x86/kvm/x86.c, MAX_IO_MSRS
_ENTRY_BYTES: Final = ctypes.sizeof(MsrEntry)
_MSR_TSC: Final = 0x10
_TSC_TOLERANCE: Final = 250e-6  # what KVM takes for the same frequency, too


def exactly(request: Request) -> Length:
    """Return the length of what a request fills in: a saved part is as long, no more and no less.

    The kernel reads so many bytes from the address it is given, whatever is there.
    """
    return Length(request.size, request.size)


@dataclass(frozen=True, slots=True)
class VcpuState:
    """The state of one vCPU, each part as KVM gave it.

    ``cpuid`` holds ``struct kvm_cpuid_entry2`` one after the other, ``msrs`` likewise ``struct
    kvm_msr_entry``; ``mp_state`` is the multiprocessing state, ``tsc_khz`` the frequency of the
    time-stamp counter.
    """

    cpuid: Annotated[bytes, Length(_CPUID_CAPACITY * _CPUID_ENTRY_BYTES)]
    mp_state: U32
    regs: Annotated[bytes, exactly(KVM_GET_REGS)]
    sregs: Annotated[bytes, exactly(KVM_GET_SREGS)]
    xsave: Annotated[bytes, exactly(KVM_GET_XSAVE)]
    xcrs: Annotated[bytes, exactly(KVM_GET_XCRS)]
    debug_registers: Annotated[bytes, exactly(KVM_GET_DEBUGREGS)]
    lapic: Annotated[bytes, exactly(KVM_GET_LAPIC)]
    msrs: Annotated[bytes, Length(_MSR_CAPACITY * _ENTRY_BYTES)]
    events: Annotated[bytes, exactly(KVM_GET_VCPU_EVENTS)]
    tsc_khz: Annotated[int, Within(1, 0x7FFF_FFFF)]


def check_vcpu_state(state: VcpuState) -> None:
    """Raise :class:`ConfigurationError` for parts of another size than KVM gives."""
    check_saved("processor", state)
    for name, size in (("cpuid", _CPUID_ENTRY_BYTES), ("msrs", _ENTRY_BYTES)):
        if len(getattr(state, name)) % size:
            raise ConfigurationError(f"saved processor: {name} is no list of {size} bytes each")


def save_vcpu(vcpu: Vcpu, msrs: Sequence[int]) -> VcpuState:
    """Return the state of a vCPU that is out of the guest, with those of ``msrs`` that it has."""
    fd = vcpu.fd
    return VcpuState(
        cpuid=_cpuid(fd),
        mp_state=vcpu.mp_state(),
        regs=get_bytes(fd, KVM_GET_REGS),
        sregs=get_bytes(fd, KVM_GET_SREGS),
        xsave=get_bytes(fd, KVM_GET_XSAVE),
        xcrs=get_bytes(fd, KVM_GET_XCRS),
        debug_registers=get_bytes(fd, KVM_GET_DEBUGREGS),
        lapic=get_bytes(fd, KVM_GET_LAPIC),
        msrs=_read_msrs(fd, msrs),
        events=get_bytes(fd, KVM_GET_VCPU_EVENTS),
        tsc_khz=ioctl(fd, KVM_GET_TSC_KHZ),
    )


def restore_vcpu(vcpu: Vcpu, state: VcpuState) -> None:
    """Bring a new vCPU into a saved state.

    CPUID comes before all that depends on its features, SREGS before the local APIC, which needs
    the base address in them, and that before the MSRs, as one of them starts its timer. Raises
    :class:`ConfigurationError` for a state of another form, :class:`HostError` for a part that this
    host does not take.
    """
    check_vcpu_state(state)
    fd = vcpu.fd
    _set_tsc_frequency(fd, state.tsc_khz)
    _set_cpuid(fd, state.cpuid)
    set_bytes(fd, KVM_SET_REGS, state.regs)
    set_bytes(fd, KVM_SET_SREGS, state.sregs)
    if Xcrs.from_buffer_copy(state.xcrs).nr_xcrs:  # a processor without XSAVE has none to set
        set_bytes(fd, KVM_SET_XCRS, state.xcrs)
    set_bytes(fd, KVM_SET_XSAVE, state.xsave)
    set_bytes(fd, KVM_SET_DEBUGREGS, state.debug_registers)
    set_bytes(fd, KVM_SET_LAPIC, state.lapic)
    _write_msrs(fd, state.msrs)
    _check_counter(fd, state)
    set_bytes(fd, KVM_SET_VCPU_EVENTS, state.events)
    set_bytes(fd, KVM_SET_MP_STATE, state.mp_state.to_bytes(4, "little"))


def _set_tsc_frequency(fd: int, khz: int) -> None:
    own = ioctl(fd, KVM_GET_TSC_KHZ)
    if abs(own - khz) > khz * _TSC_TOLERANCE:
        ioctl(fd, KVM_SET_TSC_KHZ, khz)


def _check_counter(fd: int, state: VcpuState) -> None:
    """Refuse a state that is ahead of a time-stamp counter which KVM does not set.

    Such a host's guests read its own counter. It began anew with the host, and the guest's time
    would stand still until it is as far again.
    """
    [now] = _entries(_read_msrs(fd, [_MSR_TSC]))
    saved = max((one.data for one in _entries(state.msrs) if one.index == _MSR_TSC), default=0)
    if now.data + state.tsc_khz * 1000 < saved:  # KVM may take one that is within a second
        detail = "the time-stamp counter cannot be set: save the guest again after the host's start"
        raise HostError(KVM_SET_MSRS.name, errno.EINVAL, detail)


def _cpuid(fd: int) -> bytes:
    table = flexible(Cpuid2Header, CpuidEntry2, _CPUID_CAPACITY)
    table.head.nent = _CPUID_CAPACITY
    ioctl(fd, KVM_GET_CPUID2, table)
    return bytes(memoryview(table.entries).cast("B")[: 40 * table.head.nent])


def _set_cpuid(fd: int, entries: bytes) -> None:
    count = len(entries) // ctypes.sizeof(CpuidEntry2)
    head = bytes(Cpuid2Header(nent=count))
    ioctl(fd, KVM_SET_CPUID2, ctypes.create_string_buffer(head + entries))


def _read_msrs(fd: int, indices: Sequence[int]) -> bytes:
    """Return the entries of the MSRs that can be read: KVM lists some that this vCPU lacks."""
    found, left = b"", list(indices)
    while left:
        head = bytes(MsrsHeader(nmsrs=len(left)))
        wanted = b"".join(bytes(MsrEntry(index=index)) for index in left)
        table = ctypes.create_string_buffer(head + wanted, len(head) + len(wanted))
        count = ioctl(fd, KVM_GET_MSRS, table)
        found += table.raw[len(head) : len(head) + count * _ENTRY_BYTES]
        left = left[count + 1 :]
    return found


def _entries(msrs: bytes) -> list[MsrEntry]:
    return list((MsrEntry * (len(msrs) // _ENTRY_BYTES)).from_buffer_copy(msrs))


def _write_msrs(fd: int, entries: bytes) -> None:
    """Write MSRs in order; one that is refused may be read-only, and must then be right already."""
    while entries:
        count = len(entries) // _ENTRY_BYTES
        head = bytes(MsrsHeader(nmsrs=count))
        table: Any = ctypes.create_string_buffer(head + entries, len(head) + len(entries))
        accepted = ioctl(fd, KVM_SET_MSRS, table)
        if accepted == count:
            return
        refused = entries[accepted * _ENTRY_BYTES : (accepted + 1) * _ENTRY_BYTES]
        entry = MsrEntry.from_buffer_copy(refused)
        if _read_msrs(fd, [entry.index]) != refused:
            detail = f"MSR {entry.index:#x} does not take {entry.data:#x}"
            raise HostError(KVM_SET_MSRS.name, errno.EINVAL, detail)
        entries = entries[(accepted + 1) * _ENTRY_BYTES :]
