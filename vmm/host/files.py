"""Files as wholes: reads and writes that are complete, parts that hold data, copies with holes.

preadv(2), lseek(2) "Seeking file data and holes", ioctl_ficlonerange(2).
"""

import errno
import fcntl
import os
import select
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from virtio.scatter import cut

FICLONE: Final = 0x4004_9409
IOV_MAX: Final = 1024

Mover = Callable[[int, Sequence[memoryview], int], int]
"""``os.preadv`` or ``os.pwritev``: how many bytes moved between a file and the views."""


Extent = tuple[int, int]
"""A part of a file: the offset of its first byte, and its length."""


def move_all(mover: Mover, fd: int, views: Sequence[memoryview], offset: int) -> None:
    """Fill the views one after the other from ``offset`` of a file, or write them there, whole.

    Raises :class:`OSError` with ``EIO`` where the file ends too early.
    """
    left = sum(map(len, views))
    while left:
        moved = mover(fd, views[:IOV_MAX], offset)
        if moved == 0:
            raise OSError(errno.EIO, f"the file ends at byte {offset}, before its capacity")
        left -= moved
        if left:
            offset += moved
            views = cut(views, moved)[1]


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data`` where a file, pipe or terminal is; waits for as long as that takes."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            # Somebody else made the open file non-blocking.
            writable = select.poll()
            writable.register(fd, select.POLLOUT)
            writable.poll()


def extents(fd: int, end: int, start: int = 0) -> Iterator[Extent]:
    """Yield ``(offset, length)`` of each part from byte ``start`` up to ``end`` that holds data."""
    while start < end:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            if error.errno == errno.EINVAL:  # a block device cannot tell (blkdev_llseek())
                yield start, end - start
                return
            raise
        if start >= end:
            return
        first, start = start, min(os.lseek(fd, start, os.SEEK_HOLE), end)
        yield first, start - first


def without(parts: Iterable[Extent], removed: Iterable[Extent]) -> Iterator[Extent]:
    """Yield what of ``parts`` is in none of the ``removed``; both are ordered, as is the result.

    >>> list(without([(0, 10), (20, 5)], [(2, 3), (8, 14)]))
    [(0, 2), (5, 3), (22, 3)]
    """
    cuts = iter(removed)
    cut = next(cuts, None)
    for first, length in parts:
        end = first + length
        while cut is not None and cut[0] < end:
            if first < cut[0]:
                yield first, cut[0] - first
            first = max(first, min(sum(cut), end))
            if sum(cut) > end:
                break  # and may reach into the next part
            cut = next(cuts, None)
        if first < end:
            yield first, end - first


def copy_data(source: int, target: int, size_bytes: int) -> None:
    """Make ``target``, an empty file, a copy of ``source``, shared where the file system can."""
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError:
        os.ftruncate(target, size_bytes)
        copy_extents(source, target, extents(source, size_bytes))


def copy_extents(source: int, target: int, parts: Iterable[Extent]) -> None:
    """Copy parts of a file to the same offsets of another one."""
    for offset, length in parts:
        copy_range(source, target, offset, length)


def copy_range(source: int, target: int, offset: int, length: int) -> None:
    """Copy bytes to the same offset of another file."""
    os.lseek(target, offset, os.SEEK_SET)
    end = offset + length
    while offset < end:
        moved = os.sendfile(target, source, offset, end - offset)
        if not moved:
            raise OSError(errno.EIO, f"the file ends at byte {offset}, it had {end}")
        offset += moved
