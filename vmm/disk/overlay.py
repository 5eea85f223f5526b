"""A disk over another one that it never changes: what is written stands in memory.

This is how a volatile disk leaves its file as it was, and how any number of machines go on from one
snapshot of a disk. Copying is by blocks of 4 KiB, when one is first written. That takes memory up
to the size of the disk, or up to a limit, past which writing fails with ENOSPC.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

from virtio.block import BlockBackend
from virtio.errors import ConfigurationError
from virtio.scatter import cut
from vmm.disk.blocks import BLOCK_BYTES, BlockSet
from vmm.disk.held import HeldFile
from vmm.host.fallocate import punch_hole
from vmm.host.files import copy_data, copy_range, extents, move_all
from vmm.host.resource import Resource
from vmm.host.runs import Run


class BaseDisk(BlockBackend, Resource):
    """What can lie under an overlay: a disk that can be shared, and is closed by its last user."""

    @abstractmethod
    def share(self) -> BaseDisk:
        """Return another owner of the same disk."""

    @abstractmethod
    def frozen(self) -> BaseDisk:
        """Return a read-only copy of this moment, while nobody writes; the caller closes it."""

    @property
    def files(self) -> tuple[int, ...]:
        """The files that the disk is in, open; none of one that is elsewhere."""
        return ()

    @property
    def sockets(self) -> int:
        """How many sockets the disk may use; a machine with none may not even write to one."""
        return 0

    @abstractmethod
    def save(self, target: int) -> None:
        """Copy the data to an empty file."""


class OverlayDisk(BaseDisk):
    """A :class:`virtio.block.BlockBackend` over ``base``, which it owns and only reads.

    ``delta`` is the file that holds the blocks of its own, at the same offsets as in the disk, and
    ``own`` says which those are, in order; by default there are none. They take at most
    ``limit_bytes`` of memory. A context manager. Raises :class:`ConfigurationError` for blocks that
    the disk does not have.

    What is its own needs no waiting, nor does what the base gives without. Changes come one after
    the other: one that waits for the base makes the others wait, but not those who only try.
    """

    def __init__(
        self,
        base: BaseDisk,
        *,
        read_only: bool = False,
        delta: int | None = None,
        own: Sequence[Run] = (),
        limit_bytes: int | None = None,
    ) -> None:
        self.name = base.name
        self.size_bytes = base.size_bytes
        self.read_only = read_only
        self.can_unmap = not read_only
        self.block_size = base.block_size
        self.base = base
        self.limit_bytes = limit_bytes
        try:
            self._own = BlockSet(self.size_bytes, own)
        except ValueError as error:
            raise ConfigurationError(f"disk {self.name}: {error}, cannot be its own") from None
        self.may_wait = base.may_wait
        self._file = HeldFile(_empty(self.size_bytes) if delta is None else delta)
        self._delta = self._file.fd
        self._changing = threading.Lock()

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill the views in turn from ``offset``, each block from where it stands."""
        with self._file:
            self._read(views, offset, wait=True)

    def try_readv(self, views: Sequence[memoryview], offset: int) -> bool:
        """Fill the views if the base can give its blocks without waiting."""
        return self._read(views, offset, wait=False)

    def _read(self, views: Sequence[memoryview], offset: int, *, wait: bool) -> bool:
        end = self._checked_end(offset, sum(map(len, views)))
        while offset < end:
            own, stop = self._same_place(offset, end)
            part, views = cut(views, stop - offset)
            if own:
                move_all(os.preadv, self._delta, part, offset)
            elif not self._read_base(part, offset, wait=wait):
                return False
            offset = stop
        return True

    def _read_base(self, views: Sequence[memoryview], offset: int, *, wait: bool) -> bool:
        if wait:
            self.base.readv(views, offset)
            return True
        return self.base.try_readv(views, offset)

    def writev(self, views: Sequence[memoryview], offset: int) -> None:
        """Write the views in turn to blocks of our own; ENOSPC where these may not be as many."""
        with self._file, self._changing:
            self._write(views, offset, wait=True)

    def try_writev(self, views: Sequence[memoryview], offset: int) -> bool:
        """Write the views, unless the base or another change has to be waited for."""
        if not self._changing.acquire(blocking=False):
            return False
        try:
            return self._write(views, offset, wait=False)
        finally:
            self._changing.release()

    def _write(self, views: Sequence[memoryview], offset: int, *, wait: bool) -> bool:
        length = sum(map(len, views))
        end = self._checked_end(offset, length)
        if self.limit_bytes is not None:
            self._make_room(offset, end)
        if not self._take_over(offset, end, wait=wait):
            return False
        move_all(os.pwritev, self._delta, views, offset)
        self._mark(offset, end)
        return True

    @property
    def sockets(self) -> int:
        """How many the base may open."""
        return self.base.sockets

    def flush(self) -> None:
        """Nothing: memory is as stable as it gets."""

    def try_flush(self) -> bool:
        """Nothing either."""
        return True

    def discard(self, offset: int, length: int) -> None:
        """Give the memory of a range back; it reads as zeros then, never as the base."""
        self.write_zeroes(offset, length, unmap=True)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Zero a range, in which no memory is used any more."""
        end = self._checked_end(offset, length)
        if not length:
            return
        with self._file as delta, self._changing:
            self._take_over(offset, end, wait=True)
            if not punch_hole(delta, offset, length):
                raise OSError(errno.EOPNOTSUPP, f"{self.name}: a hole cannot be punched here")
            self._mark(offset, end)

    def changed_runs(self) -> list[Run]:
        """Return which blocks differ from the disk at the bottom, below all overlays."""
        return self._changed().runs()

    def _changed(self) -> BlockSet:
        if not isinstance(self.base, OverlayDisk):
            return self._own
        changed = BlockSet(self.size_bytes, self.base.changed_runs())
        for first, count in self._own.runs():
            changed.add(first, first + count)
        return changed

    def frozen(self) -> OverlayDisk:
        """Return a read-only copy of this moment, while nobody writes; the caller closes it."""
        delta = _empty(self.size_bytes)
        copy_data(self._delta, delta, self.size_bytes)
        fcntl.fcntl(delta, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
        return OverlayDisk(self.base.share(), read_only=True, delta=delta, own=self._own.runs())

    def share(self) -> Self:
        """Return another owner of the same blocks; only for disks that nobody writes any more."""
        shared = type(self)(self.base.share(), read_only=True, delta=os.dup(self._delta))
        shared._own = self._own
        return shared

    def save(self, target: int) -> None:
        """Copy all data, the bottom's and every change of it, to an empty file."""
        self.base.save(target)
        self._copy_own(target)

    def save_changes(self, target: int) -> None:
        """Copy the blocks of :meth:`changed_runs` to an empty file."""
        if isinstance(self.base, OverlayDisk):
            self.base.save_changes(target)
        os.ftruncate(target, self.size_bytes)
        self._copy_own(target)

    def close(self) -> None:
        """Let go of base and blocks; harmless the second time."""
        if self._delta >= 0:
            self._delta = -1
            self._file.close()
            self.base.close()

    def _copy_own(self, target: int) -> None:
        for first, count in self._own.runs():
            offset = first * BLOCK_BYTES
            length = min(count * BLOCK_BYTES, self.size_bytes - offset)
            copy_range(self._delta, target, offset, length)

    def _checked_end(self, offset: int, length: int) -> int:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise OSError(errno.EINVAL, f"{self.name}: {length} bytes at {offset} are outside")
        return offset + length

    def _same_place(self, offset: int, end: int) -> tuple[bool, int]:
        """Tell whether the block at ``offset`` is our own, and up to where all of them are so."""
        own, stop = self._own.stretch(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES))
        return own, min(end, stop * BLOCK_BYTES)

    def _take_over(self, offset: int, end: int, *, wait: bool) -> bool:
        """Copy up the blocks at both ends that are going to be written in part.

        Returns False when that would have to wait for the base.
        """
        if not (offset % BLOCK_BYTES or end % BLOCK_BYTES):
            return True
        for edge in {offset - offset % BLOCK_BYTES, end - end % BLOCK_BYTES}:
            start, stop = edge, min(edge + BLOCK_BYTES, self.size_bytes)
            partly = start < offset or end < stop
            if start < end and partly and start // BLOCK_BYTES not in self._own:
                self._make_room(start, stop)
                block = bytearray(stop - start)
                if not self._read_base([memoryview(block)], start, wait=wait):
                    return False
                move_all(os.pwritev, self._delta, [memoryview(block)], start)
                self._mark(start, stop)
        return True

    def _make_room(self, offset: int, end: int) -> None:
        """Raise ENOSPC when the blocks of a range would take more memory than there may be."""
        if self.limit_bytes is None:
            return
        offset, end = offset - offset % BLOCK_BYTES, end + -end % BLOCK_BYTES
        room = self.limit_bytes - os.fstat(self._delta).st_blocks * 512
        if end - offset <= room:
            return
        there = sum(length for _, length in extents(self._delta, end, offset))
        if end - offset - there > room:
            limit = self.limit_bytes
            raise OSError(errno.ENOSPC, f"{self.name}: its limit of {limit} bytes is used up")

    def _mark(self, offset: int, end: int) -> None:
        self._own.add(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES))


def _empty(size_bytes: int) -> int:
    """Return a file in memory that takes none until it is written, and whose size stays."""
    fd = os.memfd_create("disk-overlay", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd
