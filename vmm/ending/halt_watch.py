"""Notices a guest that has halted for ever.

A PC without ACPI powers off by halting with interrupts off, and with the interrupt chips in the
kernel KVM then keeps the vCPU and tells nobody. So this looks, a few times a second, whether every
vCPU's thread has used no processor time since the last look; only then, as it has to make them
leave the guest for it, at what they are doing.

It had better wait in C, as ``wait_idle`` of ``vmm/x86/run.c`` does. A thread that comes for the
interpreter's lock five times a second, only to see that the guest is busy, costs an I/O thread that
serves queues in Python up to a third of its time: at each of its system calls that one hands the
lock over, to a thread that is not yet awake.
"""

import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from virtio.errors import HostError
from vmm.host.resource import Resource
from vmm.vcpu import VcpuThread
from vmm.x86 import is_halted_for_ever, native_wait_idle

INTERVAL_MS: Final = 200


WaitIdle = Callable[[Sequence[int], int, int], bool]


class Loop(Protocol):
    """The part of an event loop that is needed here."""

    def call_soon_threadsafe(self, callback: Callable[[], object], /) -> object: ...


class HaltWatch(Resource):
    """Has ``loop`` call ``on_halted`` once when no vCPU of ``threads`` can ever run again.

    It looks from :meth:`start` on, on a thread of its own, until :meth:`stop`; ``wait_idle`` is
    :func:`wait_idle_plainly` or does the same. Raises :class:`HostError` when there is no
    descriptor left.
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
        """Look from now on; the vCPUs' threads have been started."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; harmless the second time."""
        os.eventfd_write(self._stop_fd, 1)
        if self._thread.ident is not None:
            self._thread.join()

    def close(self) -> None:
        """Stop, and give the descriptor back."""
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
    """Wait until none of the clocks has moved for an interval; False if ``stop_fd`` wants an end.

    The clocks are those of clock_gettime(2). One of a thread that is gone stands still.
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
