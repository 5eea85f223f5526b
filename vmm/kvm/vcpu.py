"""The vCPU file descriptor: registers, and running guest code until the next exit.

KVM api.rst "vcpu ioctls", "The kvm_run structure".

Stopping a vCPU. A thread inside KVM_RUN comes back only for a signal, and a signal that arrives
just before the call would be lost. So the kick signal stays *blocked* in the vCPU's thread, where
it waits as long as it must, and KVM_SET_SIGNAL_MASK unblocks it for the duration of KVM_RUN
alone: whenever the kick comes, the next KVM_RUN returns EINTR. No handler runs, and no other
thread takes part.
"""

import ctypes
import errno
import mmap
import os
import signal
import struct
from collections.abc import Callable
from functools import partial
from typing import Final

from virtio.errors import HostError
from vmm.host.resource import Resource
from vmm.kvm import ioctl, structs
from vmm.kvm.ioctl import KVM_RUN, try_ioctl

KVM_EXIT_IO: Final = 2
KVM_EXIT_HYPERCALL: Final = 3
KVM_EXIT_DEBUG: Final = 4
KVM_EXIT_HLT: Final = 5
KVM_EXIT_MMIO: Final = 6
KVM_EXIT_IRQ_WINDOW_OPEN: Final = 7
KVM_EXIT_SHUTDOWN: Final = 8
KVM_EXIT_FAIL_ENTRY: Final = 9
KVM_EXIT_INTR: Final = 10
KVM_EXIT_INTERNAL_ERROR: Final = 17
KVM_EXIT_SYSTEM_EVENT: Final = 24

EXIT_NAMES: Final = {
    KVM_EXIT_IO: "io",
    KVM_EXIT_HYPERCALL: "hypercall",
    KVM_EXIT_DEBUG: "debug",
    KVM_EXIT_HLT: "hlt",
    KVM_EXIT_MMIO: "mmio",
    KVM_EXIT_IRQ_WINDOW_OPEN: "irq-window",
    KVM_EXIT_SHUTDOWN: "shutdown",
    KVM_EXIT_FAIL_ENTRY: "fail-entry",
    KVM_EXIT_INTR: "interrupted",
    KVM_EXIT_INTERNAL_ERROR: "internal-error",
    KVM_EXIT_SYSTEM_EVENT: "system-event",
}

KVM_MP_STATE_RUNNABLE: Final = 0
KVM_MP_STATE_HALTED: Final = 3

KICK_SIGNAL: Final = signal.SIGUSR1

_KERNEL_SIGSET_BYTES: Final = 8
_EXIT_REASON_WORD: Final = 2  # struct kvm_run: __u32 exit_reason at offset 8
_INTERNAL = struct.Struct("<II16Q")  # at 0x20: suberror, ndata, data[16]
_FAIL_ENTRY = struct.Struct("<QI")  # at 0x20: hardware_entry_failure_reason, cpu
_PAYLOAD: Final = 0x20


class Vcpu(Resource):
    """A virtual CPU of KVM; ``run_area`` is the ``struct kvm_run`` it shares with the kernel.

    ``enter`` performs KVM_RUN, and returns 0 or minus the errno; what replaces it may serve exits
    by itself before it returns.
    """

    def __init__(self, fd: int, index: int, run_size: int) -> None:
        self.fd = fd
        self.index = index
        try:
            self._mapping = mmap.mmap(fd, run_size)
        except OSError as error:
            os.close(fd)
            raise HostError("mmap of struct kvm_run", error.errno or 0) from None
        self.run_area = memoryview(self._mapping)
        self._words = self.run_area.cast("I")
        self.enter: Callable[[], int] = partial(try_ioctl, fd, KVM_RUN)

    def run(self) -> int:
        """Run guest code until an exit and return its reason; an interrupted run is
        ``KVM_EXIT_INTR`` ("KVM_RUN").
        """
        while result := self.enter():
            if result == -errno.EINTR:
                signal.sigtimedwait({KICK_SIGNAL}, 0)  # consume the kick, if it was one
                return KVM_EXIT_INTR
            if result != -errno.EAGAIN:  # EAGAIN: a secondary CPU received its start-up IPI
                raise HostError(KVM_RUN.name, -result)
        return self._words[_EXIT_REASON_WORD]

    def accept_kicks(self) -> None:
        """Prepare the calling thread, the one that will call :meth:`run`, to be kicked."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {KICK_SIGNAL})
        mask = sum(1 << (number - 1) for number in blocked if number != KICK_SIGNAL)
        head = structs.SignalMaskHeader(len=_KERNEL_SIGSET_BYTES)
        argument = ctypes.create_string_buffer(
            bytes(head) + mask.to_bytes(_KERNEL_SIGSET_BYTES, "little")
        )
        ioctl.ioctl(self.fd, ioctl.KVM_SET_SIGNAL_MASK, argument)

    def internal_error(self) -> tuple[int, tuple[int, ...]]:
        """Return suberror and data words of a ``KVM_EXIT_INTERNAL_ERROR``."""
        suberror, count, *data = _INTERNAL.unpack_from(self.run_area, _PAYLOAD)
        return suberror, tuple(data[: min(count, 16)])

    def fail_entry_reason(self) -> int:
        """Return the hardware's reason code of a ``KVM_EXIT_FAIL_ENTRY``."""
        reason: int = _FAIL_ENTRY.unpack_from(self.run_area, _PAYLOAD)[0]
        return reason

    def regs(self) -> structs.Regs:
        """Return the general registers ("KVM_GET_REGS")."""
        regs = structs.Regs()
        ioctl.ioctl(self.fd, ioctl.KVM_GET_REGS, regs)
        return regs

    def set_regs(self, regs: structs.Regs) -> None:
        """Replace the general registers ("KVM_SET_REGS")."""
        ioctl.ioctl(self.fd, ioctl.KVM_SET_REGS, regs)

    def sregs(self) -> structs.Sregs:
        """Return segment, table and control registers ("KVM_GET_SREGS")."""
        sregs = structs.Sregs()
        ioctl.ioctl(self.fd, ioctl.KVM_GET_SREGS, sregs)
        return sregs

    def set_sregs(self, sregs: structs.Sregs) -> None:
        """Replace segment, table and control registers ("KVM_SET_SREGS")."""
        ioctl.ioctl(self.fd, ioctl.KVM_SET_SREGS, sregs)

    def set_fpu(self, fpu: structs.Fpu) -> None:
        """Replace the x87 and SSE state ("KVM_SET_FPU")."""
        ioctl.ioctl(self.fd, ioctl.KVM_SET_FPU, fpu)

    def lapic(self) -> structs.LapicState:
        """Return the local APIC's register page ("KVM_GET_LAPIC")."""
        state = structs.LapicState()
        ioctl.ioctl(self.fd, ioctl.KVM_GET_LAPIC, state)
        return state

    def set_lapic(self, state: structs.LapicState) -> None:
        """Replace the local APIC's register page ("KVM_SET_LAPIC")."""
        ioctl.ioctl(self.fd, ioctl.KVM_SET_LAPIC, state)

    def set_cpuid(self, entries: list[structs.CpuidEntry2]) -> None:
        """Set what CPUID answers; must precede MSRs ("KVM_SET_CPUID2")."""
        table = structs.flexible(structs.Cpuid2Header, structs.CpuidEntry2, len(entries))
        table.head.nent = len(entries)
        table.entries[:] = entries
        ioctl.ioctl(self.fd, ioctl.KVM_SET_CPUID2, table)

    def msr(self, index: int) -> int:
        """Return one model-specific register ("KVM_GET_MSRS")."""
        table = structs.flexible(structs.MsrsHeader, structs.MsrEntry, 1)
        table.head.nmsrs = 1
        table.entries[0].index = index
        if ioctl.ioctl(self.fd, ioctl.KVM_GET_MSRS, table) != 1:
            raise HostError(ioctl.KVM_GET_MSRS.name, errno.EINVAL, f"MSR {index:#x}")
        value: int = table.entries[0].data
        return value

    def set_msrs(self, msrs: list[tuple[int, int]]) -> None:
        """Write ``(index, value)`` pairs in order; an MSR that KVM refuses is named in the error
        ("KVM_SET_MSRS").
        """
        table = structs.flexible(structs.MsrsHeader, structs.MsrEntry, len(msrs))
        table.head.nmsrs = len(msrs)
        for entry, (index, value) in zip(table.entries, msrs, strict=True):
            entry.index, entry.data = index, value
        accepted = ioctl.ioctl(self.fd, ioctl.KVM_SET_MSRS, table)
        if accepted != len(msrs):
            refused = f"MSR {msrs[accepted][0]:#x} was refused"
            raise HostError(ioctl.KVM_SET_MSRS.name, errno.EINVAL, refused)

    def mp_state(self) -> int:
        """Return the multiprocessing state, ``KVM_MP_STATE_HALTED`` in HLT ("KVM_GET_MP_STATE")."""
        state = structs.MpState()
        ioctl.ioctl(self.fd, ioctl.KVM_GET_MP_STATE, state)
        return state.mp_state

    def translate(self, virtual: int) -> int | None:
        """Return the guest-physical address of a guest-virtual one, None if it is not mapped
        ("KVM_TRANSLATE").
        """
        translation = structs.Translation(linear_address=virtual)
        ioctl.ioctl(self.fd, ioctl.KVM_TRANSLATE, translation)
        return translation.physical_address if translation.valid else None

    def inject_exception(self, vector: int, error_code: int | None = None) -> None:
        """Deliver an exception at the next entry ("KVM_SET_VCPU_EVENTS")."""
        events = structs.VcpuEvents()
        ioctl.ioctl(self.fd, ioctl.KVM_GET_VCPU_EVENTS, events)
        events.exception.injected = 1
        events.exception.nr = vector
        events.exception.has_error_code = error_code is not None
        events.exception.error_code = error_code or 0
        ioctl.ioctl(self.fd, ioctl.KVM_SET_VCPU_EVENTS, events)

    def close(self) -> None:
        """Unmap the shared area and close the file descriptor."""
        self._words.release()
        self.run_area.release()
        self._mapping.close()
        os.close(self.fd)


def kick(thread: int) -> None:
    """Make the vCPU that runs on ``thread`` (a ``threading`` identity) leave the guest."""
    signal.pthread_kill(thread, KICK_SIGNAL)
