"""A block device of the host as a disk: ``/dev/sdb``, a partition, a logical volume, a loop device.

It is read and written through the host's page cache like any file, so that parts of its blocks can
be, too. What differs is how storage is given back, and what it tells of itself. Linux ``ioctl.c``
of ``block/``, ``blkdev_fallocate()``; sysfs "queue/".
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import suppress
from typing import Final

from virtio.errors import ConfigurationError
from vmm.disk.lock import check_image, lock_image
from vmm.disk.raw import PAGE_BYTES, RawDisk

# linux/fs.h
BLKROGET: Final = 0x125E
BLKSSZGET: Final = 0x1268
BLKDISCARD: Final = 0x1277
BLKPBSZGET: Final = 0x127B

_RANGE: Final = struct.Struct("=QQ")
_MOST_BLOCK_BYTES: Final = 4096
_CANNOT: Final = (errno.EOPNOTSUPP, errno.ENOTTY)


class BlockDevice(RawDisk):
    """A :class:`RawDisk` whose ``fd`` is a block device; what the guest writes is on it at once.

    Its size is that of the moment at which it is opened. Raises :class:`ConfigurationError` for
    one that is read-only, unless it is wanted so.
    """

    def __init__(self, fd: int, *, name: str, read_only: bool = False) -> None:
        if not read_only and _asked(fd, BLKROGET):
            raise ConfigurationError(
                f"disk {name}: the device is read-only; add ',ro' to use it read-only"
            )
        super().__init__(fd, name=name, read_only=read_only)
        self.block_size = _asked(fd, BLKSSZGET)
        if self.block_size > _MOST_BLOCK_BYTES:
            raise ConfigurationError(
                f"disk {name}: its blocks have {self.block_size} bytes, {_MOST_BLOCK_BYTES} at most"
                " are possible"
            )
        self.physical_block_size = max(PAGE_BYTES, _asked(fd, BLKPBSZGET))
        granularity = _queue_limit(fd, "discard_granularity")
        self.discard_alignment = max(PAGE_BYTES, granularity or 0)
        self.can_unmap = not read_only and granularity != 0
        self._can_punch = not read_only

    @staticmethod
    def _lock(fd: int, path: str, *, writes: bool) -> None:
        if writes:
            _claim(fd, path)
        lock_image(fd, path, writes=writes)

    def discard(self, offset: int, length: int) -> None:
        """Tell the device that nobody needs a range; it may read as anything that was there."""
        self._check_range(offset, length)
        start, end = self._whole_blocks(offset, offset + length)
        if not self.can_unmap or start >= end:
            return
        with self._file as fd:
            try:
                fcntl.ioctl(fd, BLKDISCARD, _RANGE.pack(start, end - start))
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                self.can_unmap = False

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Zero a range; the kernel does it block by block only."""
        if self._whole_blocks(offset, offset + length) == (offset, offset + length):
            super().write_zeroes(offset, length, unmap=unmap)
            return
        self._check_range(offset, length)
        with self._file as fd:
            self._write_zeroes(fd, offset, length)

    def _unmap(self, fd: int, offset: int, length: int) -> bool:
        """Zero a range by giving it back, where the device promises that it then reads as zeros.

        One that cannot do that may discard all the same.
        """
        can_unmap = self.can_unmap
        if self._can_punch and can_unmap:
            self._can_punch = super()._unmap(fd, offset, length)
            self.can_unmap = can_unmap
        return self._can_punch and can_unmap

    def _whole_blocks(self, start: int, end: int) -> tuple[int, int]:
        size = self.block_size
        return -(-start // size) * size, end // size * size


def _asked(fd: int, request: int) -> int:
    """Return what a request answers with an ``int``."""
    return int.from_bytes(fcntl.ioctl(fd, request, bytes(4)), "little")


def _queue_limit(fd: int, name: str) -> int | None:
    """Return a limit of the device's queue, which a partition has above it; None if none tells."""
    number = os.fstat(fd).st_rdev
    place = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
    for queue in (f"{place}/queue", f"{place}/../queue"):
        with suppress(OSError, ValueError), open(f"{queue}/{name}", encoding="ascii") as file:
            return int(file.read())
    return None


def _claim(fd: int, path: str) -> None:
    """Have ``fd``, a device open for writing, be open so that the host does not use it meanwhile.

    It does not mount a device that is open with ``O_EXCL``, and gives none so that is mounted:
    open(2). Raises :class:`ConfigurationError` for such a one.
    """
    try:
        alone = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_EXCL)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise ConfigurationError(f"disk {path}: {error.strerror}") from None
        check_image(fd, path, writes=True)  # another machine, which is named
        raise ConfigurationError(
            f"disk {path}: the host uses the device (a mounted file system, swap, RAID, LVM): end"
            " that first, add ',ro', or ',lock=off' to insist"
        ) from None
    os.dup2(alone, fd, inheritable=False)
    os.close(alone)
