"""A disk that fails on purpose, for tests of what a file system or a program makes of it."""

import errno
import threading
from collections.abc import Callable, Sequence
from typing import Final

from virtio.block import SECTOR_BYTES, BlockBackend
from virtio.scatter import cut

ALL: Final = range(1 << 55)


class FaultyDisk(BlockBackend):
    """A :class:`virtio.block.BlockBackend` over another one, with faults that a test injects.

    Faults may be set and taken back at any time, from any thread. ``reads``, ``writes`` and
    ``flushes`` count what was asked of the disk, refused requests included. All calls are made on
    threads of the device, so that a test may make them wait.
    """

    def __init__(self, disk: BlockBackend) -> None:
        self._disk = disk
        self._lock = threading.Lock()
        self._bad_reads: list[range] = []
        self._bad_writes: list[range] = []
        self._torn: dict[int, int] = {}
        self._before_flush: Callable[[], object] | None = None
        self.reads = self.writes = self.flushes = 0
        self.name = disk.name
        self.size_bytes = disk.size_bytes
        self.read_only = disk.read_only
        self.can_unmap = disk.can_unmap

    def fail_reads(self, sectors: range = ALL) -> None:
        """Answer each read that touches one of these 512-byte sectors with an I/O error."""
        with self._lock:
            self._bad_reads.append(sectors)

    def fail_writes(self, sectors: range = ALL) -> None:
        """Answer each write that touches one of these sectors with an I/O error."""
        with self._lock:
            self._bad_writes.append(sectors)

    def tear_write(self, sector: int, keep_bytes: int) -> None:
        """Write only the first bytes of the next write that touches ``sector``, and report success.

        This is how a power failure leaves a write that the disk had only cached.
        """
        with self._lock:
            self._torn[sector] = keep_bytes

    def before_flush(self, call: Callable[[], object] | None) -> None:
        """Call this before each flush: it may wait, or raise OSError to make the flush fail."""
        with self._lock:
            self._before_flush = call

    def heal(self) -> None:
        """Take all faults back."""
        with self._lock:
            self._bad_reads, self._bad_writes, self._torn = [], [], {}
            self._before_flush = None

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill the views, or fail."""
        with self._lock:
            self.reads += 1
            self._refuse(self._bad_reads, _sectors(views, offset))
        self._disk.readv(views, offset)

    def writev(self, views: Sequence[memoryview], offset: int) -> None:
        """Write the views, or a part of them, or fail."""
        sectors = _sectors(views, offset)
        with self._lock:
            self.writes += 1
            self._refuse(self._bad_writes, sectors)
            torn = [sector for sector in self._torn if sector in sectors]
            kept = self._torn.pop(torn[0]) if torn else None
        self._disk.writev(views if kept is None else cut(views, kept)[0], offset)

    def flush(self) -> None:
        """Make what was written stable, or fail."""
        with self._lock:
            self.flushes += 1
            call = self._before_flush
        if call is not None:
            call()
        self._disk.flush()

    def discard(self, offset: int, length: int) -> None:
        """Give storage back."""
        self._disk.discard(offset, length)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Zero a range."""
        self._disk.write_zeroes(offset, length, unmap=unmap)

    def _refuse(self, bad: Sequence[range], sectors: range) -> None:
        for one in bad:
            if max(one.start, sectors.start) < min(one.stop, sectors.stop):
                raise OSError(errno.EIO, f"a fault was injected at sectors {one.start}-{one[-1]}")


def _sectors(views: Sequence[memoryview], offset: int) -> range:
    end = offset + sum(map(len, views))
    return range(offset // SECTOR_BYTES, -(-end // SECTOR_BYTES))
