"""Locks of images, which keep two machines from writing one: QEMU's, so that it respects ours.

The scheme of QEMU's ``file-posix.c`` (``raw_check_lock_bytes()``), by locks that belong to an open
file (``F_OFD_SETLK``, fcntl_locking(2)). There is a byte of the file for each thing that somebody
may do with an image, from 100 on, and one for each that its users bear in nobody else, from 200 on.
Who uses an image first locks the bytes of all that it does and of all that it does not bear, each
for reading, so that these locks never stand against each other, and readers may hold them. Then it
looks whether somebody else bears none of what it does, or does what it does not bear; if so, it
goes away again.

Two who come at the same moment may both go away; never do both stay. A file system without locks
(some network ones) gives none: that is a warning, as elsewhere.

Not ``flock(2)``, the other lock of an open file: QEMU does not look at that one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

from virtio.errors import ConfigurationError
from virtio.log import Logger

logger = Logger(__name__)

FLOCK: Final = struct.Struct("@hhqqi4x")
"""``struct flock``: l_type, l_whence, l_start, l_len, l_pid."""
assert FLOCK.size == 32

# QEMU's RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE, and bits of its BLK_PERM_*.
_DONE: Final = 100
_NOT_BORNE: Final = 200
_READ: Final = 0
_WRITE: Final = 1
_RESIZE: Final = 3

_CHANGES: Final = (_WRITE, _RESIZE)
"""What a disk bears in nobody else, whether it is written itself or not."""

_UNLOCKABLE: Final = (errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def lock_image(fd: int, path: str, *, writes: bool) -> None:
    """Lock an open image until its last descriptor is closed: one writer, or any readers.

    Raises :class:`ConfigurationError`, which names who has it, when it is in use otherwise; the
    caller then closes it.
    """
    for byte in _locked(writes=writes):
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock(fcntl.F_RDLCK, byte, 1))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise ConfigurationError(_in_use(fd, path, byte)) from None
            logger.warning("disk %s: cannot be locked: %s", path, error.strerror)
            return
    check_image(fd, path, writes=writes)


def check_image(fd: int, path: str, *, writes: bool) -> None:
    """Raise :class:`ConfigurationError`, as :func:`lock_image` does, but lock nothing."""
    for byte in _looked_at(writes=writes):
        if _is_locked(fd, byte):
            raise ConfigurationError(_in_use(fd, path, byte))


def _locked(*, writes: bool) -> list[int]:
    done = (_READ, _WRITE) if writes else (_READ,)
    return [*(_DONE + one for one in done), *(_NOT_BORNE + one for one in _CHANGES)]


def _looked_at(*, writes: bool) -> list[int]:
    """Return the bytes that stand against it: not its own, of those whose like it has itself."""
    done = (_READ, _WRITE) if writes else (_READ,)
    return [*(_DONE + one for one in _CHANGES), *(_NOT_BORNE + one for one in done)]


def _is_locked(fd: int, byte: int) -> bool:
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK, byte, 1))
    except OSError as error:
        if error.errno in _UNLOCKABLE:
            return False
        raise
    return bool(FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _lock(kind: int, start: int, length: int) -> bytes:
    return FLOCK.pack(kind, os.SEEK_SET, start, length, 0)


def _in_use(fd: int, path: str, byte: int) -> str:
    from vmm.disk.holder import holder

    does = "writes" if _is_locked(fd, _DONE + _WRITE) else "reads"
    who = holder(os.fstat(fd), byte, but=fd) or "another process, which /proc does not show us"
    return (
        f"disk {path}: in use by {who}, which {does} it: end that first, or add ',lock=off' to"
        " insist"
    )
