"""Operations on locks of fcntl(2) and flock(2), for a file system that shares them.

Without ``shared_locks`` the driver is not told of these, and its kernel keeps locks itself. Linux'
driver cannot interrupt a request that waits, so that a process which waits for a lock of another
guest can then not be killed (``virtio_fs_wake_interrupt_and_unlock()``, to Linux 6.17 at least).
"""

from __future__ import annotations

from functools import partial
from typing import Final

from virtio.fs.answers import Answers
from virtio.fs.filesystem import FileSystem, Lock
from virtio.fs.message import Message, invalid
from virtio.fs.protocol import FUSE_LK_FLOCK
from virtio.fs.work import Answer, Interrupt, LockWait

F_UNLCK: Final = 2
OFFSET_MAX: Final = (1 << 63) - 1


class Locks:
    """GETLK, SETLK and SETLKW, and INTERRUPT, which ends the waiting of the last one."""

    def __init__(self, system: FileSystem, answers: Answers) -> None:
        self._system = system
        self._answers = answers

    def getlk(self, message: Message) -> Answer:
        """GETLK: who is in the way of a lock."""
        handle, owner, lock, _ = self._read(message)
        return self._answers.layouts.lk_out.pack(*self._system.getlk(handle, owner, lock))

    def setlk(self, message: Message) -> Answer:
        """SETLK: take or drop a lock at once."""
        handle, owner, lock, flock = self._read(message)
        self._system.setlk(handle, owner, lock, flock=flock)
        return b""

    def setlkw(self, message: Message) -> Answer:
        """SETLKW: take or drop a lock, and wait for that."""
        handle, owner, lock, flock = self._read(message)
        attempt = partial(self._system.setlk, handle, owner, lock, flock=flock)
        try:
            attempt()
        except BlockingIOError:
            return LockWait(attempt)
        return b""

    def interrupt(self, message: Message) -> Answer:
        """INTERRUPT: a request that waits."""
        [unique] = message.unpack(self._answers.layouts.interrupt_in)
        return Interrupt(unique)

    def _read(self, message: Message) -> tuple[int, int, Lock, bool]:
        handle, owner, start, end, kind, process, flags, _ = message.unpack(
            self._answers.layouts.lk_in
        )
        if kind > F_UNLCK or start > end or end > OFFSET_MAX:
            raise invalid(f"a lock of kind {kind} from {start} to {end}")
        return handle, owner, Lock(start, end, kind, process), bool(flags & FUSE_LK_FLOCK)
