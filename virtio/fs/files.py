"""Operations on open files: reading, writing, and what belongs to a file's storage."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import Final

from virtio.fs.answers import Answers
from virtio.fs.filesystem import FileSystem, Later
from virtio.fs.message import Message, invalid
from virtio.fs.protocol import (
    FUSE_FSYNC_FDATASYNC,
    FUSE_OPEN_KILL_SUIDGID,
    FUSE_RELEASE_FLOCK_UNLOCK,
    FUSE_WRITE_CACHE,
    FUSE_WRITE_KILL_SUIDGID,
)
from virtio.fs.work import Answer, InPlace, Waiting

MAX_WRITE_BYTES: Final = 1 << 20
"""The most that a READ or WRITE moves: FUSE_MAX_MAX_PAGES of 4 KiB."""

# linux/falloc.h
KEEP_SIZE: Final = 0x01
PUNCH_HOLE: Final = 0x02
ZERO_RANGE: Final = 0x10
ALLOCATE_MODES: Final = (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE)

_I64_MAX: Final = (1 << 63) - 1


class Files:
    """OPEN to RELEASE, and all that goes on between these; FSYNCDIR and SYNCFS, too."""

    def __init__(self, system: FileSystem, answers: Answers) -> None:
        self._system = system
        self._answers = answers

    def open(self, message: Message) -> Answer:
        """OPEN: a file, emptied with O_TRUNC."""
        flags, open_flags = message.unpack(self._answers.layouts.open_in)
        drops = bool(open_flags & FUSE_OPEN_KILL_SUIDGID)
        return self._answers.opened(self._system.open(message.node, flags, drop_privileges=drops))

    def release(self, message: Message) -> Answer:
        """RELEASE: a handle is closed."""
        handle, _, flags, owner = message.unpack(self._answers.layouts.release_in)
        self._system.release(handle, owner if flags & FUSE_RELEASE_FLOCK_UNLOCK else None)
        return b""

    def flush(self, message: Message) -> Answer:
        """FLUSH: one of the descriptors of a handle is closed.

        With nothing to do, the driver is told so, and does without from then on. What the host
        could not write is told by FSYNC: to wait for it at each close would cost every file dear.
        """
        if not self._system.shared_locks:
            raise OSError(errno.ENOSYS, "no locks are shared")
        handle, _, _, owner = message.unpack(self._answers.layouts.flush_in)
        self._system.flush(handle, owner)
        return b""

    def read(self, message: Message) -> Answer:
        """READ: at once what the host has in its memory, else by a thread."""
        handle, offset, size, *_ = message.unpack(self._answers.layouts.read_in)
        length = min(size, MAX_WRITE_BYTES, max(message.room, 0))
        _check_range(offset, length)
        got = self._system.try_read(handle, offset, message.answer_views(length))
        if got is not None:
            return InPlace(got)
        return Waiting(partial(self._system.read, handle, offset, length), bytes)

    def write(self, message: Message) -> Answer:
        """WRITE: from the guest's memory to the host's."""
        layout = self._answers.layouts.write_in
        handle, offset, size, flags, *_ = message.unpack(layout)
        if size > MAX_WRITE_BYTES:
            raise invalid(f"a write of {size} bytes, at most {MAX_WRITE_BYTES} were agreed on")
        _check_range(offset, size)
        written = self._system.write(
            handle,
            offset,
            message.data(layout.size, size),
            from_cache=bool(flags & FUSE_WRITE_CACHE),
            drop_privileges=bool(flags & FUSE_WRITE_KILL_SUIDGID),
        )
        return self._answers.layouts.write_out.pack(written, 0)

    def fsync(self, message: Message) -> Answer:
        """FSYNC and FSYNCDIR: what was written to a file or directory is made stable."""
        handle, flags, _ = message.unpack(self._answers.layouts.fsync_in)
        only = bool(flags & FUSE_FSYNC_FDATASYNC)
        return Waiting(partial(self._system.fsync, handle, data_only=only), _nothing)

    def syncfs(self, message: Message) -> Answer:
        """SYNCFS: everything is made stable."""
        return Waiting(partial(self._system.syncfs, message.node), _nothing)

    def fallocate(self, message: Message) -> Answer:
        """FALLOCATE: storage of a range."""
        handle, offset, length, mode, _ = message.unpack(self._answers.layouts.fallocate_in)
        _check_range(offset, length)
        if mode not in ALLOCATE_MODES:
            raise OSError(errno.EOPNOTSUPP, f"mode {mode:#x} of fallocate")
        begin = partial(self._system.fallocate, handle, mode, offset, length)
        return Waiting(begin, _nothing, changes=True)

    def lseek(self, message: Message) -> Answer:
        """LSEEK: the next data or hole."""
        handle, offset, whence, _ = message.unpack(self._answers.layouts.lseek_in)
        _check_range(offset, 0)
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise invalid(f"whence {whence} of a seek")
        begin = partial(self._system.lseek, handle, offset, whence)
        return Waiting(begin, self._answers.layouts.lseek_out.pack)

    def copy_file_range(self, message: Message) -> Answer:
        """COPY_FILE_RANGE: between two files, at most 1 GiB at a time."""
        source, start, _, target, end, length, flags = message.unpack(
            self._answers.layouts.copy_file_range_in
        )
        length = min(length, _MOST_COPIED)
        _check_range(start, length)
        _check_range(end, length)
        if flags:
            raise invalid(f"flags {flags:#x} of a copy")
        begin: partial[Later[int]] = partial(
            self._system.copy_file_range, source, start, target, end, length
        )
        return Waiting(begin, self._copied, changes=True)

    def _copied(self, count: int) -> bytes:
        return self._answers.layouts.write_out.pack(count, 0)


_MOST_COPIED: Final = 1 << 30


def _nothing(result: object) -> bytes:
    return b""


def _check_range(offset: int, length: int) -> None:
    """Raise for what no file has: the host would take it for something negative."""
    if offset + length > _I64_MAX:
        raise invalid(f"{length} bytes at {offset}")
