"""Operations on attributes: those of stat(2), extended ones, and the room of the file system."""

from __future__ import annotations

import errno
from typing import Final

from virtio.fs.answers import Answers
from virtio.fs.filesystem import Changes, FileSystem
from virtio.fs.message import MAX_NAME_BYTES, Message, invalid
from virtio.fs.protocol import (
    FATTR_ATIME,
    FATTR_ATIME_NOW,
    FATTR_FH,
    FATTR_GID,
    FATTR_KILL_SUIDGID,
    FATTR_MODE,
    FATTR_MTIME,
    FATTR_MTIME_NOW,
    FATTR_SIZE,
    FATTR_UID,
    FUSE_GETATTR_FH,
)
from virtio.fs.work import Answer

XATTR_SIZE_MAX: Final = 65536
XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
NOW: Final = -1
_PERMISSIONS: Final = 0o7777
_I64_MAX: Final = (1 << 63) - 1


class AttributeOperations:
    """GETATTR and SETATTR, STATFS, and the four operations on extended attributes."""

    def __init__(self, system: FileSystem, answers: Answers) -> None:
        self._system = system
        self._answers = answers

    def getattr(self, message: Message) -> Answer:
        """GETATTR: by a handle where the driver names one."""
        flags, _, handle = message.unpack(self._answers.layouts.getattr_in)
        open_file = handle if flags & FUSE_GETATTR_FH else None
        return self._answers.attributes(self._system.getattr(message.node, open_file))

    def setattr(self, message: Message) -> Answer:
        """SETATTR: those that the driver marks as valid."""
        valid, _, handle, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = (
            message.unpack(self._answers.layouts.setattr_in)
        )
        if valid & FATTR_SIZE and size > _I64_MAX:
            raise OSError(errno.EFBIG, f"a size of {size} bytes")
        changes = Changes(
            mode=mode & _PERMISSIONS if valid & FATTR_MODE else None,
            uid=uid if valid & FATTR_UID else None,
            gid=gid if valid & FATTR_GID else None,
            size_bytes=size if valid & FATTR_SIZE else None,
            atime_ns=_time(valid, FATTR_ATIME, FATTR_ATIME_NOW, atime, atime_ns),
            mtime_ns=_time(valid, FATTR_MTIME, FATTR_MTIME_NOW, mtime, mtime_ns),
            drop_privileges=bool(valid & FATTR_KILL_SUIDGID),
        )
        open_file = handle if valid & FATTR_FH else None
        return self._answers.attributes(self._system.setattr(message.node, open_file, changes))

    def statfs(self, message: Message) -> Answer:
        """STATFS: how much room there is."""
        space = self._system.statfs(message.node)
        return self._answers.layouts.statfs_out.pack(*space[:5], *space[5:8], 0)

    def setxattr(self, message: Message) -> Answer:
        """SETXATTR: a name, then its value."""
        layout = self._answers.layouts.setxattr_in
        size, flags = message.unpack(layout)
        [name] = _xattr_name(message, layout.size)
        start = layout.size + len(name) + 1
        value = message.body[start : start + size]
        if size > XATTR_SIZE_MAX:
            raise OSError(errno.E2BIG, f"a value of {size} bytes")
        if len(value) != size or flags & ~(XATTR_CREATE | XATTR_REPLACE):
            raise invalid(f"a value of {size} bytes, {len(value)} came, flags {flags:#x}")
        self._system.setxattr(message.node, name, value, flags)
        return b""

    def getxattr(self, message: Message) -> Answer:
        """GETXATTR: a value, or its size for who has no room."""
        layout = self._answers.layouts.getxattr_in
        size, _ = message.unpack(layout)
        [name] = _xattr_name(message, layout.size)
        return self._sized(self._system.getxattr(message.node, name), size)

    def listxattr(self, message: Message) -> Answer:
        """LISTXATTR: all names, or their size for who has no room."""
        size, _ = message.unpack(self._answers.layouts.getxattr_in)
        return self._sized(self._system.listxattr(message.node), size)

    def removexattr(self, message: Message) -> Answer:
        """REMOVEXATTR: by its name."""
        [name] = _xattr_name(message, 0)
        self._system.removexattr(message.node, name)
        return b""

    def _sized(self, value: bytes, size: int) -> bytes:
        if not size:
            return self._answers.layouts.getxattr_out.pack(len(value), 0)
        if len(value) > size:
            raise OSError(errno.ERANGE, f"{len(value)} bytes, there is room for {size}")
        return value


def _xattr_name(message: Message, start: int) -> list[bytes]:
    """Return the name of an extended attribute, which no path comes from."""
    [name] = message.strings(start, 1)
    if not 1 <= len(name) <= MAX_NAME_BYTES:
        raise OSError(errno.ERANGE, f"an attribute's name of {len(name)} bytes")
    return [name]


def _time(valid: int, given: int, now: int, seconds: int, nanoseconds: int) -> int | None:
    if valid & now:
        return NOW
    if not valid & given:
        return None
    if nanoseconds >= 1_000_000_000:
        raise invalid(f"{nanoseconds} nanoseconds")
    signed = seconds - (1 << 64) if seconds > _I64_MAX else seconds
    total = signed * 1_000_000_000 + nanoseconds
    return None if total == NOW else total
