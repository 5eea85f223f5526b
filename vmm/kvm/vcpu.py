"""The vCPU file descriptor: runs guest code until the next exit.

KVM api.rst "vcpu ioctls", "The kvm_run structure".

How a vCPU is kicked.

The problem. Another thread wants the vCPU out of the guest, at once and for certain. Only a signal
makes a thread come back from KVM_RUN, and a signal that arrives just before the call is spent when
the call begins: the guest runs on, and whoever waits for the vCPU waits for ever.

What does not work. A flag that the thread looks at before it enters leaves that gap open.
``kvm_run.immediate_exit``, set by a signal handler, closes the gap, but needs a handler that runs
at once on this very thread. Python's do not: CPython runs them later, on the main thread, between
two instructions of bytecode, and only the main thread may install them in a process that is not
ours alone.

What we do. The kick signal is *blocked* in the vCPU's thread, where it stays pending as long as it
must, and KVM_SET_SIGNAL_MASK unblocks it for the duration of KVM_RUN alone. The kernel looks for
pending signals after it has set that mask, so whenever the kick comes, this KVM_RUN or the next one
returns EINTR. The thread then takes the signal away with sigtimedwait(2). No handler runs, and no
other thread takes part.

What remains. The signal is SIGUSR1: a program that sends that one to a vCPU's thread for another
purpose only makes the vCPU leave the guest once more than needed. KVM_RUN also returns EINTR when
the process is stopped and continued, frozen, or held by a debugger; then there is nothing to take
away, and the guest's clock is told that time passed.
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
KVM_MP_STATE_UNINITIALIZED: Final = 1
KVM_MP_STATE_INIT_RECEIVED: Final = 2
KVM_MP_STATE_HALTED: Final = 3

KICK_SIGNAL: Final = signal.SIGUSR1

_KERNEL_SIGSET_BYTES: Final = 8
_EXIT_REASON_WORD: Final = 2  # struct kvm_run: __u32 exit_reason at offset 8
_INTERNAL = struct.Struct("<II16Q")  # at 0x20: suberror, ndata, data[16]
_FAIL_ENTRY = struct.Struct("<QI")  # at 0x20: hardware_entry_failure_reason, cpu
_PAYLOAD: Final = 0x20


class VcpuFd(Resource):
    """A virtual CPU of KVM, of any architecture.

    ``run_area`` is the ``struct kvm_run`` that it shares with the kernel. ``enter`` performs
    KVM_RUN and returns 0 or minus the errno; a replacement may serve exits before it returns.
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
                if signal.sigtimedwait({KICK_SIGNAL}, 0) is None:  # not a kick, now consumed
                    self.tell_clock()
                return KVM_EXIT_INTR
            if result != -errno.EAGAIN:  # EAGAIN: a secondary CPU received its start-up IPI
                raise HostError(KVM_RUN.name, -result)
        return self._words[_EXIT_REASON_WORD]

    def tell_clock(self) -> None:
        """Tell the guest's clock, where it has one that listens, that this vCPU did not run.

        Whoever has kept a vCPU out of the guest for long calls this before its next entry, on the
        thread that runs the vCPU, so that the guest's watchdogs take the time for a pause.
        """

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

    def mp_state(self) -> int:
        """Return the multiprocessing state, ``KVM_MP_STATE_HALTED`` in HLT ("KVM_GET_MP_STATE")."""
        state = structs.MpState()
        ioctl.ioctl(self.fd, ioctl.KVM_GET_MP_STATE, state)
        return state.mp_state

    def close(self) -> None:
        """Unmap the shared area and close the file descriptor."""
        self._words.release()
        self.run_area.release()
        self._mapping.close()
        os.close(self.fd)


def kick(thread: int) -> None:
    """Make the vCPU that runs on ``thread`` (a ``threading`` identity) leave the guest."""
    signal.pthread_kill(thread, KICK_SIGNAL)
