"""A disk over another one that it never changes: what is written stands in memory.

This is how a volatile disk leaves its file as it was, and how any number of machines go on from one
snapshot of a disk. Copying is by blocks of 4 KiB, when one is first written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final, Protocol, Self

from virtio.block import BlockBackend
from virtio.scatter import cut
from vmm.host.fallocate import punch_hole
from vmm.host.files import copy_data, copy_range, move_all
from vmm.host.resource import Resource
from vmm.host.runs import Run, runs

BLOCK_BYTES: Final = 4096

_FROM_BASE: Final = b"\0"
_OWN: Final = b"\1"


class BaseDisk(BlockBackend, Protocol):
    """What can lie under an overlay: a disk that can be shared, and is closed by its last user."""

    @property
    def name(self) -> str: ...

    def share(self) -> BaseDisk: ...

    def save(self, target: int) -> None: ...

    def close(self) -> None: ...


class OverlayDisk(Resource):
    """A :class:`virtio.block.BlockBackend` over ``base``, which it owns and only reads.

    ``delta`` is the file that holds the blocks of its own, at the same offsets as in the disk, and
    ``own`` says which those are; by default there are none. A context manager.
    """

    def __init__(
        self,
        base: BaseDisk,
        *,
        read_only: bool = False,
        delta: int | None = None,
        own: Sequence[Run] = (),
    ) -> None:
        self.name = base.name
        self.size_bytes = base.size_bytes
        self.read_only = read_only
        self.can_unmap = not read_only
        self.base = base
        self._delta = _empty(self.size_bytes) if delta is None else delta
        blocks = -(-self.size_bytes // BLOCK_BYTES)
        # A byte for each block, for it can then be searched as fast as memory.
        self._own = bytearray(blocks)
        for first, count in own:
            self._own[first : first + count] = _OWN * count

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill the views in turn from ``offset``, each block from where it stands."""
        end = self._checked_end(offset, sum(map(len, views)))
        while offset < end:
            own, stop = self._same_place(offset, end)
            part, views = cut(views, stop - offset)
            if own:
                move_all(os.preadv, self._delta, part, offset)
            else:
                self.base.readv(part, offset)
            offset = stop

    def writev(self, views: Sequence[memoryview], offset: int) -> None:
        """Write the views in turn to blocks of our own."""
        length = sum(map(len, views))
        end = self._checked_end(offset, length)
        self._take_over(offset, end)
        move_all(os.pwritev, self._delta, views, offset)
        self._mark(offset, end)

    def flush(self) -> None:
        """Nothing: memory is as stable as it gets."""

    def discard(self, offset: int, length: int) -> None:
        """Give the memory of a range back; it reads as zeros then, never as the base."""
        self.write_zeroes(offset, length, unmap=True)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Zero a range, in which no memory is used any more."""
        end = self._checked_end(offset, length)
        if length:
            self._take_over(offset, end)
            if not punch_hole(self._delta, offset, length):
                raise OSError(errno.EOPNOTSUPP, f"{self.name}: a hole cannot be punched here")
            self._mark(offset, end)

    def changed_runs(self) -> list[Run]:
        """Return which blocks differ from the disk at the bottom, below all overlays."""
        return runs(self._changed())

    def _changed(self) -> bytearray:
        if not isinstance(self.base, OverlayDisk):
            return self._own
        changed = self.base._changed()[:]
        for first, count in runs(self._own):
            changed[first : first + count] = _OWN * count
        return changed

    def frozen(self) -> OverlayDisk:
        """Return a read-only copy of this moment, while nobody writes; the caller closes it."""
        delta = _empty(self.size_bytes)
        copy_data(self._delta, delta, self.size_bytes)
        return OverlayDisk(self.base.share(), read_only=True, delta=delta, own=runs(self._own))

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
        delta, self._delta = self._delta, -1
        if delta >= 0:
            os.close(delta)
            self.base.close()

    def _copy_own(self, target: int) -> None:
        for first, count in runs(self._own):
            offset = first * BLOCK_BYTES
            length = min(count * BLOCK_BYTES, self.size_bytes - offset)
            copy_range(self._delta, target, offset, length)

    def _checked_end(self, offset: int, length: int) -> int:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise OSError(errno.EINVAL, f"{self.name}: {length} bytes at {offset} are outside")
        return offset + length

    def _same_place(self, offset: int, end: int) -> tuple[bool, int]:
        """Tell whether the block at ``offset`` is our own, and up to where all of them are so."""
        block = offset // BLOCK_BYTES
        own = bool(self._own[block])
        other = self._own.find(_FROM_BASE if own else _OWN, block, -(-end // BLOCK_BYTES))
        return own, end if other < 0 else other * BLOCK_BYTES

    def _take_over(self, offset: int, end: int) -> None:
        """Copy up the blocks at both ends that are going to be written in part."""
        for edge in {offset - offset % BLOCK_BYTES, end - end % BLOCK_BYTES}:
            start, stop = edge, min(edge + BLOCK_BYTES, self.size_bytes)
            partly = start < offset or end < stop
            if start < end and partly and not self._own[start // BLOCK_BYTES]:
                block = bytearray(stop - start)
                self.base.readv([memoryview(block)], start)
                move_all(os.pwritev, self._delta, [memoryview(block)], start)
                self._mark(start, stop)

    def _mark(self, offset: int, end: int) -> None:
        first, last = offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        self._own[first:last] = _OWN * (last - first)


def _empty(size_bytes: int) -> int:
    """Return a file in memory that takes none until it is written."""
    fd = os.memfd_create("disk-overlay", os.MFD_CLOEXEC)
    os.ftruncate(fd, size_bytes)
    return fd
