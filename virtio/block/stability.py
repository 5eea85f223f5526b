"""Making stable what was written: one sync at a time, shared by all that wait for one.

A sync takes hundreds of microseconds however much it has to do, so what is in a burst shares one.
What is written while a sync is under way may have come too late for it, and waits for the next.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence

from virtio.block.backend import BlockBackend
from virtio.device.calls import WaitingCalls
from virtio.device.lifecycle import EventLoop
from virtio.virtqueue.request import Request

Group = Sequence[Request]


class Syncs:
    """Syncs a backend. ``ended`` gets the requests that a sync was for, and what it raised.

    ``failed`` tells whether a sync ever failed: then no later one succeeds, as what it lost stays
    lost (``BLK-25``). A sync that fails after a reset counts as well.
    """

    def __init__(
        self,
        backend: BlockBackend,
        calls: WaitingCalls,
        ended: Callable[[Group, Exception | None], None],
    ) -> None:
        self.failed = False
        self._one_at_a_time = threading.Lock()
        self._backend = backend
        self._calls = calls
        self._ended = ended
        self._loop: EventLoop | None = None
        self._next: list[Request] = []
        self._under_way: list[Request] = []
        self._is_busy = False

    def connect(self, loop: EventLoop | None) -> None:
        """Serve the requests of an activation, and forget those of the one before."""
        self._loop = loop
        self._next, self._under_way, self._is_busy = [], [], False

    def forget(self, queue: int) -> None:
        """Forget the requests of one queue; a sync that is under way goes on for the others."""
        self._next = [one for one in self._next if one.queue_index != queue]
        self._under_way = [one for one in self._under_way if one.queue_index != queue]

    def join(self, request: Request) -> bool:
        """Return True when all is stable already; else ``ended`` tells later.

        Raises :class:`OSError` when it cannot be made stable.
        """
        if self.failed:
            raise _lost()
        try:
            if self._backend.try_flush():
                return True
        except OSError:
            self.failed = True
            raise
        self._next.append(request)
        if not self._is_busy and self._loop is not None:
            # Not at once: the rest of the burst shall be part of it.
            self._is_busy = True
            self._loop.call_soon_threadsafe(self._begin)
        return False

    def _begin(self) -> None:
        self._under_way, self._next = self._next, []
        self._is_busy = bool(self._under_way)
        if self._is_busy:
            self._calls.make(lambda: self._flush, self._came_back, queue=None)

    def _flush(self) -> None:
        """Sync, on a thread.

        After a reset one that was forgotten may still be under way. The host tells of a lost write
        once, to either of two at a time, so the second waits for the first and what it found.
        """
        with self._one_at_a_time:
            if self.failed:
                raise _lost()
            try:
                self._backend.flush()
            except OSError:
                self.failed = True
                raise

    def _came_back(self, error: Exception | None) -> None:
        group, self._under_way = self._under_way, []
        self._begin()
        self._ended(group, error)


def _lost() -> OSError:
    return OSError(errno.EIO, "an earlier sync failed, and what it lost stays lost")
