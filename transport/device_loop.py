"""The event loop as a device sees it: under its work lock, and gone at reset."""

import threading
from collections.abc import Callable
from functools import partial

from virtio.device.lifecycle import EventLoop, TimerHandle


class DeviceLoop:
    """An ``EventLoop`` for one activation of one device, over the machine's.

    Callbacks run through ``guard`` with ``work`` held; after :meth:`close` none runs any more, also
    one that was on its way. The machine's loop must take all calls from any thread, as a device is
    activated and reset on the thread of a virtual CPU.
    """

    def __init__(
        self,
        loop: EventLoop,
        work: threading.Lock,
        guard: Callable[[Callable[[], object]], None],
    ) -> None:
        self._loop = loop
        self._work = work
        self._guard = guard
        self._closed = False
        self._readers: set[int] = set()
        self._writers: set[int] = set()
        self._timers: set[Timer] = set()

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        """Call ``callback`` whenever ``fd`` can be read."""
        if not self._closed:
            self._readers.add(fd)
            self._loop.add_reader(fd, partial(self._run, callback))

    def remove_reader(self, fd: int) -> None:
        """Stop that; harmless for an ``fd`` that is not watched."""
        if fd in self._readers:
            self._readers.remove(fd)
            self._loop.remove_reader(fd)

    def add_writer(self, fd: int, callback: Callable[[], object]) -> None:
        """Call ``callback`` whenever ``fd`` can be written."""
        if not self._closed:
            self._writers.add(fd)
            self._loop.add_writer(fd, partial(self._run, callback))

    def remove_writer(self, fd: int) -> None:
        """Stop that; harmless for an ``fd`` that is not watched."""
        if fd in self._writers:
            self._writers.remove(fd)
            self._loop.remove_writer(fd)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> "Timer":
        """Call ``callback`` once, ``seconds`` from now."""
        timer = Timer(self._timers)
        if not self._closed:
            self._timers.add(timer)
            fire = partial(self._run, partial(timer.fire, callback))
            timer.handle = self._loop.call_later(seconds, fire)
        return timer

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> object:
        """Call ``callback`` once, soon; from any thread."""
        if self._closed:
            return None
        return self._loop.call_soon_threadsafe(partial(self._run, callback))

    def close(self) -> None:
        """Forget all watchers and timers; the caller holds the work lock."""
        self._closed = True
        for fd in tuple(self._readers):
            self.remove_reader(fd)
        for fd in tuple(self._writers):
            self.remove_writer(fd)
        for timer in tuple(self._timers):
            timer.cancel()

    def _run(self, callback: Callable[[], object]) -> None:
        with self._work:
            if not self._closed:
                self._guard(callback)


class Timer:
    """A call that was put off on a :class:`DeviceLoop`."""

    __slots__ = ("_cancelled", "_pending", "handle")

    def __init__(self, pending: "set[Timer]") -> None:
        self._pending = pending
        self._cancelled = False
        self.handle: TimerHandle | None = None

    def fire(self, callback: Callable[[], object]) -> None:
        """Make the call, unless it was cancelled while it waited for its turn."""
        self._pending.discard(self)
        if not self._cancelled:
            callback()

    def cancel(self) -> None:
        """Forget the call; harmless when it was made already."""
        self._cancelled = True
        self._pending.discard(self)
        if self.handle is not None:
            self.handle.cancel()
