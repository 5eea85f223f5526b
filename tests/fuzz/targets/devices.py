"""Devices for the fuzzers: one with something of everything, and a disk in memory."""

import errno
from collections.abc import Sequence

from virtio.block import Block, BlockBackend
from virtio.device.declaration import Device, feature, field, queue
from virtio.virtqueue.chain import DescriptorChain

EVERY_RING_FEATURE = 1 << 28 | 1 << 29 | 1 << 32 | 1 << 34 | 1 << 35 | 1 << 38 | 1 << 40
SECTORS = 16


class Sampler(Device):
    """Echoes what it reads, holds chains back, and has configuration fields of every kind."""

    device_id = 42
    in_order = True

    VIRTIO_SAMPLER_F_WIDE = feature(0)
    VIRTIO_SAMPLER_F_MORE = feature(1, requires=(VIRTIO_SAMPLER_F_WIDE,))

    small = field("u8", 0, writable=True)
    wide = field("u64", 8, feature=VIRTIO_SAMPLER_F_WIDE, writable=True)
    name = field("bytes", 16, length=7, default=b"sampler", writable=True)
    early = field("u32", 24, writable=True, early=True)
    count = field("u16", 28)

    def __init__(self) -> None:
        super().__init__(ring_features=EVERY_RING_FEATURE)
        self.held: list[tuple[DescriptorChain, int]] = []

    @small.written
    def _small_written(self, value: int) -> bool:
        self.count = value * 3 & 0xFFFF
        return value < 0x80

    @queue(size=64)
    def echoq(self, chain: DescriptorChain) -> int:
        """Send the readable part back."""
        return chain.write(chain.read(0x1000))

    @queue(size=64, batch=True, burst=4)
    def holdq(self, chains: list[DescriptorChain]) -> list[int | None]:
        """Keep every chain until the loop comes round, in the order of arrival."""
        for chain in chains:
            self.held.append((chain, chain.write(b"held")))
        self.loop.call_later(0, self._let_go)
        return [None] * len(chains)

    def _let_go(self) -> None:
        held, self.held = self.held, []
        for chain, length in held:
            chain.complete(length)

    def disable_queue(self, index: int) -> None:
        """Forget what is held."""
        self.held = self.held if index == 0 else []
        super().disable_queue(index)

    def reset(self) -> None:
        """Forget what is held."""
        self.held = []
        super().reset()


class Medium(BlockBackend):
    """A disk of 16 sectors in memory; ``faults`` is the set of operations that fail."""

    may_wait = False
    size_bytes = SECTORS * 512
    can_unmap = True
    blank = bytes(i // 512 * 16 + i % 13 for i in range(size_bytes))

    def __init__(self, *, read_only: bool = False) -> None:
        self.read_only = read_only
        self.data = bytearray(self.blank)
        self.faults: frozenset[str] = frozenset()

    def put_back(self) -> None:
        """Undo everything."""
        self.data[:] = self.blank

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill the views in turn from ``offset``."""
        self._inside("readv", offset, sum(map(len, views)))
        for view in views:
            view[:] = self.data[offset : offset + len(view)]
            offset += len(view)

    def writev(self, views: Sequence[memoryview], offset: int) -> None:
        """Write the views in turn from ``offset``."""
        self._inside("writev", offset, sum(map(len, views)))
        assert not self.read_only, "a write to a read-only medium"
        for view in views:
            self.data[offset : offset + len(view)] = view
            offset += len(view)

    def flush(self) -> None:
        """Do nothing, or fail."""
        self._inside("flush", 0, 0)

    def discard(self, offset: int, length: int) -> None:
        """Leave the range as it is."""
        self._inside("discard", offset, length)
        assert not self.read_only, "a discard on a read-only medium"

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Clear the range."""
        self._inside("write_zeroes", offset, length)
        assert not self.read_only, "zeros written to a read-only medium"
        self.data[offset : offset + length] = bytes(length)

    def _inside(self, operation: str, offset: int, length: int) -> None:
        if operation in self.faults:
            raise OSError(errno.EIO, f"{operation} was told to fail")
        assert 0 <= offset <= offset + length <= self.size_bytes, "outside the medium"


def disk(medium: Medium, queues: int = 1) -> Block:
    """Return a block device with all ring features but IN_ORDER."""
    return Block(medium, serial="fuzz", queues=queues, ring_features=EVERY_RING_FEATURE)
