"""Requests that wait for a lock: tried again by the clock, as no descriptor tells of locks.

A thread that waits in fcntl(2) could not be called back when the request is interrupted, or the
device reset.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from virtio.device.lifecycle import EventLoop, TimerHandle
from virtio.fs.message import Message
from virtio.fs.work import LockWait

FIRST_SECONDS: Final = 0.005
LONGEST_SECONDS: Final = 0.1
"""How long until a lock is tried again: at first, and at most."""

MAX_WAITS: Final = 1024

End = Callable[[Message, bytes | OSError], None]


class LockWaits:
    """Tries the locks that are waited for, in the order in which they came.

    ``end`` completes a request. All methods are called under the device's work lock.
    """

    def __init__(self, end: End) -> None:
        self._end = end
        self._loop: EventLoop | None = None
        self._timer: TimerHandle | None = None
        self._seconds = FIRST_SECONDS
        self._waits: list[tuple[Message, LockWait]] = []

    def connect(self, loop: EventLoop | None) -> None:
        """Wait on this loop from now on; with None, forget all requests."""
        self._loop = loop
        self._waits.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forget(self, queue: int) -> None:
        """Forget the requests of one queue."""
        self._waits = [one for one in self._waits if one[0].chain.owner.index != queue]

    def add(self, message: Message, wait: LockWait) -> None:
        """Have a request wait; beyond ``MAX_WAITS`` it fails with ENOLCK."""
        if len(self._waits) >= MAX_WAITS:
            self._end(message, OSError(errno.ENOLCK, f"{MAX_WAITS} requests wait for locks"))
            return
        self._waits.append((message, wait))
        self._seconds = FIRST_SECONDS
        self._try_later()

    def interrupt(self, unique: int) -> None:
        """End the waiting of a request with EINTR, if it waits here."""
        for one in self._waits:
            if one[0].unique == unique:
                self._waits.remove(one)
                self._end(one[0], OSError(errno.EINTR, "interrupted"))
                return

    def _try_later(self) -> None:
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(self._seconds, self._try)
            self._seconds = min(2 * self._seconds, LONGEST_SECONDS)

    def _try(self) -> None:
        self._timer = None
        waits, self._waits = self._waits, []
        for message, wait in waits:
            try:
                wait.attempt()
            except BlockingIOError:
                self._waits.append((message, wait))
            except OSError as error:
                self._end(message, error)
            else:
                self._end(message, b"")
        if self._waits:
            self._try_later()
