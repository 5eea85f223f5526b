"""System calls of directories and file systems that Python's ``os`` module does not offer."""

from __future__ import annotations

import ctypes
import errno
import os
from struct import Struct
from typing import Final

from virtio.fs.filesystem import DirectoryEntry

_libc: Final = ctypes.CDLL(None, use_errno=True)

_DIRENT64: Final = Struct("=QqHB")
"""``struct linux_dirent64 { u64 d_ino; s64 d_off; u16 d_reclen; u8 d_type; char d_name[]; }``"""

LISTING_BYTES: Final = 32 << 10


def getdents(fd: int) -> list[DirectoryEntry]:
    """Return the next entries of an open directory, none at its end: getdents64(2)."""
    buffer = ctypes.create_string_buffer(LISTING_BYTES)
    count = _libc.getdents64(ctypes.c_int(fd), buffer, ctypes.c_size_t(LISTING_BYTES))
    if count < 0:
        raise _failure()
    data, at = buffer.raw[:count], 0
    entries = []
    while at < count:
        inode, offset, length, kind = _DIRENT64.unpack_from(data, at)
        name = data[at + _DIRENT64.size : at + length].split(b"\0", 1)[0]
        entries.append(DirectoryEntry(name, inode, kind, offset))
        at += length
    return entries


def renameat2(
    old_directory: int, old_name: bytes, new_directory: int, new_name: bytes, flags: int
) -> None:
    """Rename with flags: renameat2(2)."""
    if _libc.renameat2(old_directory, old_name, new_directory, new_name, ctypes.c_uint(flags)):
        raise _failure()


def syncfs(fd: int) -> None:
    """Make the file system of an open file stable: syncfs(2)."""
    if _libc.syncfs(fd):
        raise _failure()


def _failure() -> OSError:
    number = ctypes.get_errno() or errno.EIO
    return OSError(number, os.strerror(number))
