"""A disk for the tests of the block device: real storage, watched, that fails when told to.

All numbers are typed from VIRTIO 1.4 "Block Device".
"""

import os
import struct
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.spec.devices import EVERY_RING
from tests.spec.rig import SPLIT, Form, Rig
from virtio.block import Block, BlockBackend
from virtio.memory import FlatMemory
from virtio.testing import QueueDriver, Segment, Used
from vmm.disk.raw import RawDisk

SEG_MAX, RO, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE, MQ, DISCARD, WRITE_ZEROES, SECURE_ERASE = (
    1 << bit for bit in (2, 5, 6, 9, 10, 11, 12, 13, 14, 16)
)
T_IN, T_OUT, T_FLUSH, T_GET_ID, T_DISCARD, T_WRITE_ZEROES, T_SECURE_ERASE = 0, 1, 4, 8, 11, 13, 14
OK, IOERR, UNSUPP = 0, 1, 2
POISON = 0xA5
SECTORS = 64
LARGE = 9 << 20
"""Bytes of a request that takes more than one step."""


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


def ranges(*segments: tuple[int, int, int]) -> bytes:
    """Return ranges of (sector, sectors, flags)."""
    return b"".join(struct.pack("<QII", *segment) for segment in segments)


def pattern(first: int, sectors: int) -> bytes:
    """Return what :func:`patterned` disks hold: the number of each sector, 64 times, plus one."""
    return b"".join(struct.pack("<Q", n + 1) * 64 for n in range(first, first + sectors))


class Watched(BlockBackend):
    """A disk that notes in ``trace`` what is done to it.

    ``failures`` maps the name of an operation to the errno with which it fails; ``before`` holds
    what is to be called first when one is done.
    """

    may_wait = False

    def __init__(self, disk: RawDisk) -> None:
        self.disk = disk
        self.size_bytes = disk.size_bytes
        self.read_only = disk.read_only
        self.trace: list[str] = []
        self.failures: dict[str, int] = {}
        self.before: dict[str, Callable[[], object]] = {}

    @property
    def can_unmap(self) -> bool:  # type: ignore[override]
        return self.disk.can_unmap

    def _note(self, name: str, detail: str = "") -> None:
        self.trace.append(name + detail)
        self.before.get(name, bool)()
        if name in self.failures:
            raise OSError(self.failures[name], "told to fail")

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        self._note("read", f" {offset // 512}")
        self.disk.readv(views, offset)

    def writev(self, views: Sequence[memoryview], offset: int) -> None:
        self._note("write", f" {offset // 512}")
        self.disk.writev(views, offset)

    def flush(self) -> None:
        self._note("flush")
        self.disk.flush()

    def discard(self, offset: int, length: int) -> None:
        self._note("discard", f" {offset // 512}+{length // 512}")
        self.disk.discard(offset, length)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        self._note("zero", f" {offset // 512}+{length // 512}")
        self.disk.write_zeroes(offset, length, unmap=unmap)

    def content(self, first: int = 0, sectors: int = SECTORS) -> bytes:
        """Return sectors as they stand in the image."""
        data = bytearray(self.size_bytes)
        self.disk.readv([memoryview(data)], 0)
        return bytes(data[first * 512 : (first + sectors) * 512])

    def allocated_blocks(self) -> int:
        """Return how much of the host's storage the image takes."""
        return os.fstat(self.disk.fd).st_blocks


def patterned(sectors: int = SECTORS) -> Watched:
    """Return a disk in memory whose every sector differs from every other."""
    disk = RawDisk.scratch(sectors * 512)
    disk.writev([memoryview(pattern(0, sectors))], 0)
    return Watched(disk)


def read_only() -> Watched:
    """Return such a disk that refuses to be changed."""
    disk = patterned()
    disk.read_only = disk.disk.read_only = True
    disk.disk.can_unmap = False
    return disk


class Answer(NamedTuple):
    """What came of a request: status, used length, and the writable bytes without the status."""

    status: int
    length: int
    data: bytes


class BlockRig(Rig):
    """A live block device over ``disk``, which it closes; a context manager.

    ``features`` are the device type's to accept, by default all that are offered; ``options`` those
    of :class:`Block`.
    """

    def __init__(
        self,
        disk: Watched | None = None,
        form: Form = SPLIT,
        features: int | None = None,
        *,
        size: int = 256,
        memory: FlatMemory | None = None,
        **options: Any,
    ) -> None:
        self.disk = disk or patterned()
        self.block = Block(self.disk, ring_features=EVERY_RING, **options)
        super().__init__(self.block, memory)
        offered = self.driver.offered_features() & ((1 << 24) - 1)
        self.start(offered if features is None else features, form, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        self.disk.disk.close()

    @property
    def ring(self) -> QueueDriver:
        """The driver's side of the first queue."""
        return self.rings[0]

    def ask(
        self, kind: int, sector: int = 0, data: bytes = b"", *, room: int = 0, queue: int = 0
    ) -> Answer:
        """Send a request with data to write, or room for data to read, and return its answer."""
        writable = [room, 1] if room else [1]
        return answer(self.request(queue, ([header(kind, sector) + data], writable)))

    def ask_in_pieces(self, readable: Sequence[bytes], writable: Sequence[int]) -> Answer:
        """Send a request cut as given; empty pieces are left out."""
        kept = [part for part in readable if part], [size for size in writable if size]
        return answer(self.request(0, kept))

    def start_large(self, kind: int, sector: int = 0, *, at: int = 4 << 20, queue: int = 0) -> int:
        """Serve the first step of a request of ``LARGE`` bytes at guest address ``at``.

        Needs memory of 16 MiB. Returns the token of the request.
        """
        ring = self.rings[queue]
        request = self.place(header(kind, sector), queue)
        segments = [
            Segment(request, 16, False),
            Segment(at, LARGE, kind == T_IN),
            Segment(self.place(bytes([POISON]), queue), 1, True),
        ]
        token = ring.add_segments(segments)
        self.driver.notify(queue)
        self.serve()
        return token

    def finish(self) -> None:
        """Let the device do all that it put off."""
        while self.loop.advance():
            self.serve()

    def place(self, data: bytes, queue: int = 0) -> int:
        """Put bytes into guest memory; returns their address."""
        ring = self.rings[queue]
        address = ring.arena.allocate(len(data))
        ring.write_bytes(address, data)
        return address

    def field(self, offset: int, width: int) -> int:
        """Return a configuration field."""
        return int.from_bytes(self.read_config(offset, width), "little")

    def write_field(self, offset: int, value: int, width: int = 1) -> None:
        """Write a configuration field."""
        self.write_config(offset, value.to_bytes(width, "little"))


def answer(used: Used) -> Answer:
    """Take the status off what came back."""
    return Answer(used.data[-1], used.length, used.data[:-1])
