"""The event loop: file descriptors, timers and calls from other threads, served on one thread.

The names are those of asyncio; the implementation is epoll(7) and an eventfd(2), because importing
asyncio would cost more than starting the rest of the machine.
"""

import logging
import os
import select
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from virtio.errors import HostError, InternalError
from vmm.host.resource import Resource

Callback = Callable[[], object]

CLOSE_TIMEOUT_SECONDS = 5.0

_READ_EVENTS = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
_WRITE_EVENTS = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
_EVENTS_PER_POLL = 64

_log = logging.getLogger(__name__)


class Timer:
    """A call that is due later; ``cancel`` may be called at any time and from any thread."""

    __slots__ = ("_loop", "callback", "when")

    def __init__(self, loop: "EventLoop", when: float, callback: Callback) -> None:
        self._loop = loop
        self.when = when
        self.callback = callback

    def __lt__(self, other: "Timer") -> bool:
        return self.when < other.when

    def cancel(self) -> None:
        """Forget the call; on another thread than the loop's it may just be running."""
        self._loop._forget(self)


class EventLoop(Resource):
    """Calls back when a descriptor is ready, a time has come, or another thread asks for it.

    All methods may be called from any thread; callbacks run on the thread that is in ``run``.
    Readiness is level-triggered. A callback must bear being called in vain: a descriptor that was
    closed and whose number was used again may give one event too many.

    An exception in a callback is logged with its traceback and handed to ``on_error``, and the
    loop goes on; without ``on_error`` it leaves ``run``.
    """

    def __init__(self, on_error: Callable[[Exception], None] | None = None) -> None:
        self._on_error = on_error
        self._lock = threading.Lock()
        self._running = threading.Lock()
        self._thread_id = 0
        self._stopping = False
        self._closed = False
        self._woken = False
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._soon: deque[Callback] = deque()
        # Sorted by time; short enough that a cancelled timer can be taken out at once, so that
        # a guest that makes a device set timers over and over cannot make it grow.
        self._timers: list[Timer] = []
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.add_reader(self._wake_fd, self._woke_up)

    def run(self) -> None:
        """Serve until ``stop``; what is due then and was not called yet is dropped."""
        with self._running:
            self._thread_id = threading.get_ident()
            try:
                while not self._stopping:
                    self._run_once()
            finally:
                self._thread_id = 0

    def stop(self) -> None:
        """Make ``run`` return after the round it is in; a later ``run`` returns at once."""
        self._stopping = True
        self._wake()

    def close(self) -> None:
        """Stop, wait until ``run`` has returned, and close the loop's own descriptors.

        Raises InternalError when a callback does not return within CLOSE_TIMEOUT_SECONDS, or when
        called from a callback. Calls from other threads that come after it are ignored.
        """
        self.stop()
        if self._thread_id == threading.get_ident():
            raise InternalError("event loop: close() was called from one of its own callbacks")
        if not self._running.acquire(timeout=CLOSE_TIMEOUT_SECONDS):
            raise InternalError(
                f"event loop: a callback has not returned for {CLOSE_TIMEOUT_SECONDS:g} s"
            )
        try:
            self._close_descriptors()
        finally:
            self._running.release()

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` whenever ``fd`` is readable or hung up; replaces an earlier one.

        Raises HostError; EPERM means a file that is always ready and that epoll(7) refuses.
        """
        self._watch(self._readers, fd, callback)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` whenever ``fd`` is writable or broken; as ``add_reader``."""
        self._watch(self._writers, fd, callback)

    def remove_reader(self, fd: int) -> None:
        """Stop watching; harmless for an ``fd`` that has no reader.

        On the loop's thread the callback is not called again. On another thread it may be about
        to run, or running, once more when this returns: whoever then frees what it uses must wait
        for it, for example with a call_soon_threadsafe() of its own.
        """
        self._unwatch(self._readers, fd)

    def remove_writer(self, fd: int) -> None:
        """Stop watching; as ``remove_reader``."""
        self._unwatch(self._writers, fd)

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        """Call ``callback`` once, not before ``seconds`` have passed."""
        timer = Timer(self, time.monotonic() + seconds, callback)
        with self._lock:
            insort(self._timers, timer)
            first = self._timers[0] is timer
        if first:
            self._wake()
        return timer

    def call_soon_threadsafe(self, callback: Callback) -> None:
        """Call ``callback`` once, on the loop's thread, after those asked for before it."""
        self._soon.append(callback)
        self._wake()

    def _run_once(self) -> None:
        for fd, events in self._epoll.poll(self._timeout(), _EVENTS_PER_POLL):
            # Looked up one after the other: a reader may take its writer away.
            if events & _READ_EVENTS and (callback := self._readers.get(fd)) is not None:
                self._call(callback)
            if events & _WRITE_EVENTS and (callback := self._writers.get(fd)) is not None:
                self._call(callback)
        # Only those there now: a callback that asks for itself again must not starve the rest.
        for _ in range(len(self._soon)):
            self._call(self._soon.popleft())
        if self._timers:
            now = time.monotonic()
            while (timer := self._pop_due(now)) is not None:
                self._call(timer.callback)

    def _call(self, callback: Callback) -> None:
        try:
            callback()
        except Exception as error:
            if self._on_error is None:
                raise
            _log.exception("event loop: callback %r failed", callback)
            self._on_error(error)

    def _timeout(self) -> float | None:
        if self._soon:
            return 0
        with self._lock:
            if not self._timers:
                return None
            return max(0.0, self._timers[0].when - time.monotonic())

    def _pop_due(self, now: float) -> Timer | None:
        # One at a time: a timer's callback may cancel the next one.
        with self._lock:
            if self._timers and self._timers[0].when <= now:
                return self._timers.pop(0)
            return None

    def _forget(self, timer: Timer) -> None:
        with self._lock, suppress(ValueError):
            self._timers.remove(timer)

    def _close_descriptors(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._epoll.close()
                os.close(self._wake_fd)

    def _wake(self) -> None:
        if self._woken:
            return
        with self._lock:
            if not self._closed:
                self._woken = True
                os.eventfd_write(self._wake_fd, 1)

    def _woke_up(self) -> None:
        # This order: a wake-up between the two is lost from the eventfd, but what it announces is
        # in the queue already, and that is looked at next. The other way round it would stay lost.
        os.eventfd_read(self._wake_fd)
        self._woken = False

    def _watch(self, table: dict[int, Callback], fd: int, callback: Callback) -> None:
        with self._lock:
            table[fd] = callback
            try:
                self._apply(fd)
            except OSError as error:
                del table[fd]
                detail = f"cannot watch descriptor {fd}"
                raise HostError("epoll_ctl", error.errno or 0, detail) from error

    def _unwatch(self, table: dict[int, Callback], fd: int) -> None:
        with self._lock:
            if table.pop(fd, None) is not None:
                # A descriptor that was closed first has left the set by itself.
                with suppress(OSError, ValueError):
                    self._apply(fd)

    def _apply(self, fd: int) -> None:
        mask = select.EPOLLIN if fd in self._readers else 0
        mask |= select.EPOLLOUT if fd in self._writers else 0
        if not mask:
            self._epoll.unregister(fd)
            return
        try:
            self._epoll.register(fd, mask)
        except FileExistsError:
            self._epoll.modify(fd, mask)
