"""Calls of a backend that may wait: made on threads, and what came of them told on the loop.

Why a late answer changes nothing
---------------------------------
A disk may answer after a second, after a minute, or never. Whoever waits for it under the device's
work lock makes a reset wait, and with it a virtual CPU, a snapshot, and the end of the machine. A
thread that reads straight into a guest's buffer, which would wait without the lock, writes there
after the reset, when the buffer belongs to somebody else in the guest.

So a thread gets nothing of the guest's: it works on memory of our own, which is made, and for a
write filled, when the call is handed over. What came of a call is taken up on the device's loop,
under the work lock. A reset forgets the calls under way: their threads go on, and what they bring
is dropped with the memory that they brought it in.

What remains of a forgotten call is the change that it may yet make to the *disk*. Until it has come
back (``late``), no other change is begun, so that nothing new is overwritten by something old; and
a disk that is being changed is not saved.

While any call changes the disk (``changing``), nobody writes in place either: file systems let one
change a file at a time (Linux ext4_buffered_write_iter() takes the inode's lock), and a write in
place behind a discard would wait for it under the work lock.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from virtio.device.lifecycle import EventLoop

THREADS: Final = 8
IDLE_SECONDS: Final = 1.0
"""How long a thread waits for another call before it ends."""

Work = Callable[[], object]
Then = Callable[[Exception | None], None]


class Call:
    """A call to be made: ``begin`` returns it when a thread is free, ``then`` gets what was raised.

    Both run on the loop. ``then`` is None once the call is forgotten. ``changes`` tells whether it
    changes the disk, ``queue`` for which queue it is made, or None for several.
    """

    __slots__ = ("begin", "changes", "error", "queue", "then", "work")

    def __init__(
        self, begin: Callable[[], Work], then: Then, *, changes: bool, queue: int | None
    ) -> None:
        self.begin: Callable[[], Work] | None = begin
        self.then: Then | None = then
        self.changes = changes
        self.queue = queue
        self.work: Work | None = None
        self.error: Exception | None = None


class WaitingCalls:
    """Makes calls on up to ``THREADS`` threads, which are started when they are needed.

    All methods are called under the device's work lock. ``changing`` tells whether a call changes
    the disk, ``late`` whether a forgotten one may yet do so; ``switched`` is called when either
    begins or ends.
    """

    def __init__(self, switched: Callable[[], object]) -> None:
        self.late = False
        self.changing = False
        self._switched = switched
        self._waiting: deque[Call] = deque()
        # What follows is shared with the threads.
        self._lock = threading.Lock()
        self._handed_over = threading.Condition(self._lock)
        self._came_back = threading.Condition(self._lock)
        self._loop: EventLoop | None = None
        self._handed: deque[Call] = deque()
        self._running: set[Call] = set()
        self._done: list[Call] = []
        self._idle = 0

    def connect(self, loop: EventLoop | None) -> None:
        """Tell on this loop from now on; with None, forget all calls."""
        self._waiting.clear()
        with self._lock:
            self._forget([*self._running, *self._done])
            self._loop, self._done = loop, []
            self._handed_over.notify_all()

    def forget(self, queue: int) -> None:
        """Forget the calls of one queue."""
        self._waiting = deque(one for one in self._waiting if one.queue != queue)
        with self._lock:
            self._forget([one for one in (*self._running, *self._done) if one.queue == queue])

    def _forget(self, calls: list[Call]) -> None:
        for call in calls:
            call.then = None
        self._look()

    def _look(self) -> None:
        """Note whether calls change the disk; the lock is held."""
        before = self.changing, self.late
        changes = [call for call in self._running if call.changes]
        self.changing = bool(changes)
        self.late = any(call.then is None for call in changes)
        if (self.changing, self.late) != before:
            self._switched()

    def make(
        self, begin: Callable[[], Work], then: Then, *, queue: int | None, changes: bool = False
    ) -> None:
        """Make the call that ``begin`` returns, as soon as a thread is free."""
        self._waiting.append(Call(begin, then, changes=changes, queue=queue))
        self._hand_over()

    def settle(self, seconds: float) -> bool:
        """Wait until no call changes the disk; whether that came in time.

        None is begun before the caller lets go of the work lock.
        """
        with self._lock:
            return self._came_back.wait_for(
                lambda: not any(call.changes for call in self._running), seconds
            )

    def _hand_over(self) -> None:
        kept: list[Call] = []
        waiting = self._waiting
        while waiting and len(self._running) < THREADS:
            call = waiting.popleft()
            if call.changes and self.late:
                kept.append(call)
                continue
            begin, call.begin = call.begin, None
            try:
                call.work = begin() if begin is not None else None
            except Exception as error:
                call.error = error
                self._end(call)
                continue
            with self._lock:
                self._running.add(call)
                self._look()
                self._handed.append(call)
                wanted = len(self._handed) > self._idle
                self._idle += wanted
                self._handed_over.notify()
            if wanted:
                thread = threading.Thread(target=self._serve, name="device call", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    self._refuse(call)
        waiting.extendleft(reversed(kept))

    def _refuse(self, call: Call) -> None:
        """Answer a call that the host gives no thread for, unless another thread took it."""
        with self._lock:
            self._idle -= 1  # the thread that did not come
            if call not in self._handed:
                return
            self._handed.remove(call)
            self._idle -= 1  # which _finish() adds, for the thread that made a call
        call.error = OSError(errno.EAGAIN, "the host gives no thread for the call")
        self._finish(call)

    # On the threads

    def _serve(self) -> None:
        while (call := self._next()) is not None:
            try:
                if call.work is not None:
                    call.work()
            except Exception as error:
                call.error = error
            self._finish(call)
            del call  # and with it the memory it worked on

    def _next(self) -> Call | None:
        with self._lock:
            while not self._handed:
                ending = self._loop is None or not self._handed_over.wait(IDLE_SECONDS)
                if ending and not self._handed:
                    self._idle -= 1
                    return None
            self._idle -= 1
            return self._handed.popleft()

    def _finish(self, call: Call) -> None:
        call.work = None
        with self._lock:
            self._running.discard(call)
            self._idle += 1
            self._came_back.notify_all()
            loop, first = self._loop, not self._done
            self._done.append(call)
        if loop is not None and first:
            loop.call_soon_threadsafe(self._tell)

    # On the loop again

    def _tell(self) -> None:
        with self._lock:
            done, self._done = self._done, []
            self._look()
        for call in done:
            self._end(call)
        self._hand_over()

    def _end(self, call: Call) -> None:
        then, call.then = call.then, None
        if then is not None:
            then(call.error)
