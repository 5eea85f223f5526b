"""Notices a guest that has halted for ever.

A guest may power off by halting its processors for ever, and with the interrupt chips in the
kernel KVM then keeps the vCPU and tells nobody. So a thread looks, a few times a second, whether
any vCPU's thread has used processor time since the last look. Only if none has, it makes the vCPUs
leave the guest and asks the architecture whether they can run again.

The wait is in C where that was built, ``wait_idle`` of ``vmm/x86/run.c``. A thread that asks for
the interpreter's lock five times a second, only to see that the guest is busy, costs an I/O thread
that serves queues in Python up to a third of its time: at each of its system calls the I/O thread
hands the lock over to a thread that is not yet awake.
"""

import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from virtio.errors import HostError
from vmm.host.resource import Resource
from vmm.host.threads import start_thread
from vmm.vcpu import VcpuThread
from vmm.x86 import is_halted_for_ever, native_wait_idle

INTERVAL_MS: Final = 200


WaitIdle = Callable[[Sequence[int], int, int], bool]


class Loop(Protocol):
    """The part of an event loop that is needed here."""

    def call_soon_threadsafe(self, callback: Callable[[], object], /) -> object: ...


class HaltWatch(Resource):
    """Has ``loop`` call ``on_halted`` once when no vCPU of ``threads`` can ever run again.

    The watch has a thread of its own from :meth:`start` to :meth:`stop`; ``wait_idle`` is
    :func:`wait_idle_plainly` or its twin in C. Raises :class:`HostError` when no file descriptor
    is left.
    """

    def __init__(
        self,
        loop: Loop,
        threads: Sequence[VcpuThread],
        on_halted: Callable[[], object],
        wait_idle: WaitIdle,
    ) -> None:
        self._loop = loop
        self._threads = threads
        self._on_halted = on_halted
        self._wait_idle = wait_idle
        try:
            self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        except OSError as error:
            raise HostError("eventfd", error.errno or 0, "the watch on the guest") from error
        self._thread = threading.Thread(target=self._main, name="halt-watch", daemon=True)

    def start(self) -> None:
        """Start to look; the vCPUs' threads run already."""
        start_thread(self._thread)

    def stop(self) -> None:
        """Stop to look; harmless the second time."""
        os.eventfd_write(self._stop_fd, 1)
        if self._thread.ident is not None:
            self._thread.join()

    def close(self) -> None:
        """Stop, and close the descriptor."""
        self.stop()
        os.close(self._stop_fd)

    def _main(self) -> None:
        clocks = [thread.cpu_clock for thread in self._threads]
        while self._wait_idle(clocks, INTERVAL_MS, self._stop_fd):
            if all(thread.call(is_halted_for_ever) for thread in self._threads):
                self._loop.call_soon_threadsafe(self._on_halted)
                return


def best_wait_idle() -> WaitIdle:
    """Return the wait in C, or its twin here where that was not built."""
    return native_wait_idle() or wait_idle_plainly


def wait_idle_plainly(clocks: Sequence[int], interval_ms: int, stop_fd: int) -> bool:
    """Wait until no clock has moved for an interval; False if ``stop_fd`` is readable first.

    The clocks are those of clock_gettime(2). The clock of an ended thread stands still.
    """
    stop = select.poll()
    stop.register(stop_fd, select.POLLIN)
    before = _used(clocks)
    while not stop.poll(interval_ms):
        now = _used(clocks)
        if now == before:
            return True
        before = now
    return False


def _used(clocks: Sequence[int]) -> list[int]:
    used = []
    for clock in clocks:
        try:
            used.append(time.clock_gettime_ns(clock))
        except OSError:
            used.append(0)
    return used
