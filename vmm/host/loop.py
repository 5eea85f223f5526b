"""The event loop: file descriptors, timers and calls from other threads, served on one thread.

The names are those of asyncio; the implementation is epoll(7) and an eventfd(2), because importing
asyncio would cost more than starting the rest of the machine.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable

from virtio.errors import InternalError
from virtio.log import Logger
from vmm.host.epoll_set import READ_EVENTS, WRITE_EVENTS, EpollSet
from vmm.host.resource import Resource
from vmm.host.timers import Timer, Timers

Callback = Callable[[], object]

CLOSE_TIMEOUT_SECONDS = 5.0

_EVENTS_PER_POLL = 64

_log = Logger(__name__)


class EventLoop(Resource):
    """Calls back when a descriptor is ready, a time has come, or another thread asks for it.

    All methods may be called from any thread; callbacks run on the thread that is in ``run``.
    Readiness is level-triggered. Remove a descriptor before you close it, and have callbacks bear
    being called in vain: ``vmm/host/epoll_set.py`` says why.

    An exception in a callback is logged with its traceback and handed to ``on_error``, and the
    loop goes on; without ``on_error`` it leaves ``run``.
    """

    def __init__(self, on_error: Callable[[Exception], None] | None = None) -> None:
        self._on_error = on_error
        # A signal handler may wake the loop while its own thread is about to do just that.
        self._lock = threading.RLock()
        self._running = threading.Lock()
        self._thread_id = 0
        self._stopping = False
        self._closed = False
        self._woken = False
        self._soon: deque[Callback] = deque()
        self._timers = Timers()
        self._watched = EpollSet()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.add_reader(self._wake_fd, self._woke_up)

    def run(self) -> None:
        """Serve until ``stop``; calls that are due then are dropped."""
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
        self._watched.add(self._watched.readers, fd, callback)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` whenever ``fd`` is writable or broken; as ``add_reader``."""
        self._watched.add(self._watched.writers, fd, callback)

    def remove_reader(self, fd: int) -> None:
        """Stop watching; harmless for an ``fd`` that has no reader.

        On the loop's thread the callback is not called again. On another thread it may be about
        to run, or running, once more when this returns: whoever then frees what it uses must wait
        for it, for example with a call_soon_threadsafe() of its own.
        """
        self._watched.remove(self._watched.readers, fd)

    def remove_writer(self, fd: int) -> None:
        """Stop watching; as ``remove_reader``."""
        self._watched.remove(self._watched.writers, fd)

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        """Call ``callback`` once, not before ``seconds`` have passed."""
        timer, is_first = self._timers.add(seconds, callback)
        if is_first:
            self._wake()
        return timer

    def call_soon_threadsafe(self, callback: Callback) -> None:
        """Call ``callback`` once, on the loop's thread, after those asked for before it.

        May be called from a signal handler.
        """
        self._soon.append(callback)
        self._wake()

    def _run_once(self) -> None:
        watched, timers = self._watched, self._timers
        if watched.stale:
            self._call(watched.renew)
        # A timer that another thread adds after this look wakes the loop, being the first one.
        timeout = 0 if self._soon else timers.seconds_left() if timers.waiting else None
        for fd, events in watched.poll(timeout, _EVENTS_PER_POLL):
            # Looked up one after the other: a reader may take its writer away.
            if events & READ_EVENTS and (callback := watched.readers.get(fd)) is not None:
                self._call(callback)
            if events & WRITE_EVENTS and (callback := watched.writers.get(fd)) is not None:
                self._call(callback)
        # Only those there now: a callback that asks for itself again must not starve the rest.
        for _ in range(len(self._soon)):
            self._call(self._soon.popleft())
        if timers.waiting:
            now = time.monotonic()
            while (timer := timers.pop_due(now)) is not None:
                self._call(timer.callback)

    def _call(self, callback: Callback) -> None:
        try:
            callback()
        except Exception as error:
            self._watched.stale = True
            if self._on_error is None:
                raise
            _log.exception("event loop: callback %r failed", callback)
            self._on_error(error)

    def _close_descriptors(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._watched.close()
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
