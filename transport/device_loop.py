"""The event loop that a device is given: under the device's work lock, and gone at reset."""

import threading
from collections.abc import Callable
from functools import partial

from virtio.device.lifecycle import EventLoop, TimerHandle

Callback = Callable[[], object]


class DeviceLoop:
    """An ``EventLoop`` for one activation of one device, over the machine's.

    Callbacks run with ``work`` held, and ``on_failure`` gets what they raise. After :meth:`close`
    none runs any more, also one that was on its way; while it is paused, they wait. Only
    ``call_soon_threadsafe`` may be called without the work lock. The machine's loop takes all calls
    from any thread, as a device is activated and reset on the thread of a virtual CPU.
    """

    def __init__(
        self, loop: EventLoop, work: threading.Lock, on_failure: Callable[[Exception], None]
    ) -> None:
        self._loop = loop
        self._work = work
        self._on_failure = on_failure
        self._closed = False
        self._paused = False
        self._waiting: list[Callback] = []
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._timers: set[DeviceTimer] = set()

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` whenever ``fd`` can be read."""
        if not self._closed:
            guarded = partial(self._run_if_ready, callback)
            if not self._paused:
                self._loop.add_reader(fd, guarded)
            self._readers[fd] = guarded

    def remove_reader(self, fd: int) -> None:
        """Stop watching for reads; harmless for an ``fd`` that this loop does not watch."""
        if fd in self._readers:
            del self._readers[fd]
            self._loop.remove_reader(fd)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` whenever ``fd`` can be written."""
        if not self._closed:
            guarded = partial(self._run_if_ready, callback)
            if not self._paused:
                self._loop.add_writer(fd, guarded)
            self._writers[fd] = guarded

    def remove_writer(self, fd: int) -> None:
        """Stop watching for writes; harmless for an ``fd`` that this loop does not watch."""
        if fd in self._writers:
            del self._writers[fd]
            self._loop.remove_writer(fd)

    def call_later(self, seconds: float, callback: Callback) -> "DeviceTimer":
        """Call ``callback`` once, ``seconds`` from now."""
        timer = DeviceTimer(self._timers, callback)
        if not self._closed:
            self._timers.add(timer)
            timer.handle = self._loop.call_later(seconds, partial(self._run, timer.fire))
        return timer

    def call_soon_threadsafe(self, callback: Callback) -> object:
        """Call ``callback`` once, soon; from any thread."""
        if self._closed:
            return None
        return self._loop.call_soon_threadsafe(partial(self._run, callback))

    def pause(self, *, paused: bool) -> None:
        """Put off all calls from now on, or make those that were put off, soon."""
        if self._closed or paused == self._paused:
            return
        self._paused = paused
        if paused:  # a descriptor that stays ready would wake the loop again and again
            for fd in self._readers:
                self._loop.remove_reader(fd)
            for fd in self._writers:
                self._loop.remove_writer(fd)
            return
        for fd, callback in self._readers.items():
            self._loop.add_reader(fd, callback)
        for fd, callback in self._writers.items():
            self._loop.add_writer(fd, callback)
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            self.call_soon_threadsafe(callback)

    def close(self) -> None:
        """Forget all watchers and timers."""
        self._closed = True
        self._waiting.clear()
        for fd in tuple(self._readers):
            self.remove_reader(fd)
        for fd in tuple(self._writers):
            self.remove_writer(fd)
        for timer in tuple(self._timers):
            timer.cancel()

    def _run(self, callback: Callback) -> None:
        with self._work:
            if self._paused and not self._closed:
                self._waiting.append(callback)
            else:
                self._call(callback)

    def _run_if_ready(self, callback: Callback) -> None:
        with self._work:
            if not self._paused:  # else it is called when the descriptor is watched again
                self._call(callback)

    def _call(self, callback: Callback) -> None:
        if not self._closed:
            try:
                callback()
            except Exception as error:
                self._on_failure(error)


class DeviceTimer:
    """A call that a :class:`DeviceLoop` makes later.

    ``pending`` is the set that it leaves when the call is made or cancelled.
    """

    __slots__ = ("_callback", "_pending", "handle")

    def __init__(self, pending: "set[DeviceTimer]", callback: Callback) -> None:
        self._pending = pending
        self._callback: Callback | None = callback
        self.handle: TimerHandle | None = None

    def fire(self) -> None:
        """Make the call, unless it was cancelled while it waited for the work lock."""
        self._pending.discard(self)
        if self._callback is not None:
            self._callback()

    def cancel(self) -> None:
        """Forget the call; harmless when it was made already."""
        self._callback = None
        self._pending.discard(self)
        if self.handle is not None:
            self.handle.cancel()
