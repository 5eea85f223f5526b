"""Locks that the host and other guests see: each owner in the guest has a file of its own for them.

Locks of an open file description (fcntl(2) "Open file description locks") and of flock(2) go with
the file that they were made through, and so with the owner whose file is closed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from typing import Final

from virtio.fs.filesystem import Lock
from virtio.fs.locks import F_UNLCK, OFFSET_MAX
from vmm.share.limits import MAX_LOCK_OWNERS

_FLOCK: Final = struct.Struct("@hhqqi4x")
_F_OFD_GETLK: Final = 36
_F_OFD_SETLK: Final = 37
_FLOCK_KINDS: Final = (fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN)

Owner = tuple[int, int, bool]
"""The number of a node, the owner's, and whether the lock is of flock(2)."""


class LockFiles:
    """The files by their owners; ``reopen`` opens that of a node for reading and writing."""

    def __init__(self) -> None:
        self._files: dict[Owner, int] = {}

    def __len__(self) -> int:
        return len(self._files)

    def get(self, owner: Owner, lock: Lock, reopen: Callable[[], int]) -> Lock:
        """Return a lock that is in the way of another one, or one of kind F_UNLCK."""
        fd = self._file(owner, reopen)
        told = fcntl.fcntl(fd, _F_OFD_GETLK, _packed(lock))
        kind, _, start, length, _ = _FLOCK.unpack(told)
        if kind == F_UNLCK:
            return lock._replace(kind=F_UNLCK)
        # Whose it is has no number in the guest.
        return Lock(start, start + length - 1 if length else OFFSET_MAX, kind, 0)

    def set(self, owner: Owner, lock: Lock, reopen: Callable[[], int]) -> None:
        """Take or drop a lock; ``BlockingIOError`` says that another one is in the way."""
        if lock.kind == F_UNLCK and owner not in self._files:
            return
        fd = self._file(owner, reopen)
        if owner[2]:
            fcntl.flock(fd, _FLOCK_KINDS[lock.kind] | fcntl.LOCK_NB)
        else:
            fcntl.fcntl(fd, _F_OFD_SETLK, _packed(lock))

    def drop(self, owner: Owner) -> None:
        """Drop all locks of an owner."""
        fd = self._files.pop(owner, None)
        if fd is not None:
            os.close(fd)

    def clear(self) -> None:
        """Drop all locks."""
        for owner in list(self._files):
            self.drop(owner)

    def _file(self, owner: Owner, reopen: Callable[[], int]) -> int:
        if owner not in self._files:
            if len(self._files) >= MAX_LOCK_OWNERS:
                raise OSError(errno.ENOLCK, f"{MAX_LOCK_OWNERS} owners have locks")
            self._files[owner] = reopen()
        return self._files[owner]


def _packed(lock: Lock) -> bytes:
    """Return ``struct flock``; a length of 0 goes to the end of every file."""
    length = 0 if lock.end == OFFSET_MAX else lock.end - lock.start + 1
    return _FLOCK.pack(lock.kind, os.SEEK_SET, lock.start, length, 0)
