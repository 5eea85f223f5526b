"""Attributes of files on the host: as the guest is told, and as it changes them."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import Final

from virtio.fs.attributes import NOW
from virtio.fs.filesystem import Attributes, Changes, Space

_PERMISSIONS: Final = 0o7777


def attributes_of(status: os.stat_result) -> Attributes:
    """Return what stat(2) told, as the guest gets it."""
    return Attributes(
        status.st_ino,
        status.st_size,
        status.st_blocks,
        status.st_atime_ns,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_mode,
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_rdev,
        status.st_blksize,
    )


def space_of(fd: int) -> Space:
    """Return what statfs(2) tells of the file system of an open file."""
    told = os.fstatvfs(fd)
    return Space(
        told.f_blocks,
        told.f_bfree,
        told.f_bavail,
        told.f_files,
        told.f_ffree,
        told.f_bsize,
        min(told.f_namemax, 255),
        told.f_frsize,
    )


def change(name: str, folder: int, before: os.stat_result, changes: Changes) -> None:
    """Change mode, owner and times of the file that a link in ``/proc/self/fd`` stands for.

    ``folder`` is a descriptor of that. The file may be of any kind, open with O_PATH alone: such a
    link leads to the file itself, and never to where a symbolic link points.
    """
    if changes.uid is not None or changes.gid is not None:
        _change_owner(name, folder, before, changes)
    mode = before.st_mode if changes.mode is None else changes.mode
    if changes.drop_privileges:
        mode = without_privileges(mode)
    if changes.mode is not None or mode != before.st_mode:
        os.chmod(name, mode & _PERMISSIONS, dir_fd=folder)
    if changes.atime_ns is not None or changes.mtime_ns is not None:
        _change_times(name, folder, before, changes)


def _change_owner(name: str, folder: int, before: os.stat_result, changes: Changes) -> None:
    uid = before.st_uid if changes.uid is None else changes.uid
    gid = before.st_gid if changes.gid is None else changes.gid
    if _NOBODY in (uid, gid):
        raise OSError(errno.EINVAL, "owner -1 is nobody")
    if (uid, gid) != (before.st_uid, before.st_gid) or before.st_mode & _PRIVILEGES:
        os.chown(name, uid, gid, dir_fd=folder)


def _change_times(name: str, folder: int, before: os.stat_result, changes: Changes) -> None:
    if changes.atime_ns == changes.mtime_ns == NOW:
        os.utime(name, None, dir_fd=folder)  # which whoever may write the file may do
        return
    times = (changes.atime_ns, before.st_atime_ns), (changes.mtime_ns, before.st_mtime_ns)
    now = time.time_ns()
    atime, mtime = (now if new == NOW else old if new is None else new for new, old in times)
    os.utime(name, ns=(atime, mtime), dir_fd=folder)


def without_privileges(mode: int) -> int:
    """Return a mode as a write by an ordinary user leaves it: ``should_remove_suid()`` of Linux.

    >>> oct(without_privileges(0o6755)), oct(without_privileges(0o2644))
    ('0o755', '0o2644')
    """
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def drop_privileges(fd: int) -> None:
    """Take set-user-ID and set-group-ID from an open file, where a write does that."""
    mode = os.fstat(fd).st_mode
    if mode & _PRIVILEGES and (less := without_privileges(mode)) != mode:
        os.fchmod(fd, less & _PERMISSIONS)


_PRIVILEGES: Final = stat.S_ISUID | stat.S_ISGID
_NOBODY: Final = 0xFFFF_FFFF
