"""Batches of chains that ``native.c`` has taken, and the layouts of what it says of them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, cast

from virtio._native import ffi, lib
from virtio.batch import ChainBatch
from virtio.chain import DescriptorChain, checked_chain
from virtio.frame import Frame

if TYPE_CHECKING:
    from virtio.virtqueue import Queue

PLAIN: Final = Struct("<QIHHH6x")
DESCRIPTOR: Final = Struct("<QIH10x")  # the same without head and id
TAKEN: Final = Struct("<QQIIIIIIQQI4x")
DATA_IN: Final = int(lib.DATA_IN)
assert PLAIN.size == DESCRIPTOR.size == ffi.sizeof("struct plain")
assert TAKEN.size == ffi.sizeof("struct taken")
assert array("I").itemsize == ffi.sizeof("uint32_t")


class NativeBatch(ChainBatch):
    """A batch whose columns stay in C until somebody asks for them."""

    __slots__ = ("_count", "_plain")

    def __init__(self, queue: Queue, plain: Any, count: int) -> None:
        super().__init__(queue)
        self._plain = plain
        self._count = count

    @property
    def writable_lengths(self) -> list[int]:
        """How many bytes of each chain the device may write."""
        if self._chains is None and self._rooms is None:
            rooms = array("I", bytes(4 * self._count))
            lib.get_rooms(self._plain, self._count, ffi.from_buffer("uint32_t[]", rooms))
            self._rooms = rooms.tolist()
        return super().writable_lengths

    @property
    def readable_lengths(self) -> list[int]:
        """How many bytes of each chain the device may read."""
        self._unpack()
        return super().readable_lengths

    @property
    def readable_bytes(self) -> int:
        """How many bytes the device may read, in all chains together."""
        self._unpack()
        return super().readable_bytes

    def make_chains(self) -> list[DescriptorChain]:
        """Return the chains; they are made now, unless they exist."""
        self._unpack()
        return super().make_chains()

    def give_back(self, lengths: Sequence[int | None]) -> bool:
        """Give all chains back at once, if that is possible; see the base class."""
        try:
            column = array("I", cast(Sequence[int], lengths))  # which refuses None
        except (TypeError, OverflowError):
            return False
        native = self._queue._native
        buffer = ffi.from_buffer("uint32_t[]", column)
        return native is not None and native.publish(self._plain, buffer, self._count)

    def __len__(self) -> int:
        return self._count

    def _unpack(self) -> None:
        if self._chains is None and self._count and not self.heads:
            rows = PLAIN.iter_unpack(ffi.buffer(self._plain, self._count * PLAIN.size))
            addresses, lengths, flags, heads, buffer_ids = zip(*rows, strict=True)
            self.add(self._count, heads, buffer_ids, addresses, lengths, flags)


class NativeChains(ChainBatch):
    """A batch of ``size`` chains of any shape.

    ``rows`` and ``copies`` are what C says of them and of their descriptors, ``headers`` those of
    the chains that are frames, as far as they were looked for.
    """

    __slots__ = ("_copies", "_headers", "_rows", "size")

    def __init__(self, queue: Queue, size: int, rows: bytes, copies: bytes, headers: bytes) -> None:
        # No columns: the few steps of this are taken for each request at depth 1.
        self._queue = queue
        self._chains = None
        self.size = size
        self._rows = rows
        self._copies = copies
        self._headers = headers

    @property
    def readable_lengths(self) -> list[int]:
        """How many bytes of each chain the device may read."""
        if self._chains is None:
            return [row[0] for row in TAKEN.iter_unpack(self._rows)]
        return super().readable_lengths

    @property
    def writable_lengths(self) -> list[int]:
        """How many bytes of each chain the device may write."""
        if self._chains is None:
            return [row[1] for row in TAKEN.iter_unpack(self._rows)]
        return super().writable_lengths

    @property
    def readable_bytes(self) -> int:
        """How many bytes the device may read, in all chains together."""
        return sum(self.readable_lengths)

    @property
    def is_plain(self) -> bool:
        """Whether each chain is one descriptor."""
        return len(self._copies) == self.size * DESCRIPTOR.size

    def frames(self, layout: Struct) -> list[Frame]:
        """Return each chain as a frame, most of them without having to make the chain."""
        queue, headers = self._queue, self._headers
        if queue._lean is not self or len(headers) != self.size * layout.size:
            return super().frames(layout)
        frames: list[Frame] = []
        nothing: list[memoryview] = []
        window = queue._window
        for index, row in enumerate(TAKEN.iter_unpack(self._rows)):
            _, _, _, _, _, _, _, kind, data, status, length = row
            header = layout.unpack_from(headers, index * layout.size)
            if not kind:
                frame = Frame.of(self, index, layout)
            elif kind == DATA_IN:
                views = [window[data : data + length]]
                frame = Frame(self, index, header, nothing, 0, views, length, window, status)
            else:
                views = [window[data : data + length]] if length else nothing
                frame = Frame(self, index, header, views, length, nothing, 0, window, status)
            frames.append(frame)
        return frames

    def make_chains(self) -> list[DescriptorChain]:
        """Return the chains; they are made now, unless they exist."""
        if self._chains is None:
            chains = _chains_of(self._queue, self._rows, self._copies)
            self._keep(chains)
            return chains
        return self._chains

    def give_back(self, lengths: Sequence[int | None]) -> bool:
        """Leave it to the chains; :meth:`Queue.exchange` is what gives them back at once."""
        return False

    def __len__(self) -> int:
        return self.size


def _chains_of(
    queue: Queue, rows: bytes | memoryview, copies: bytes | memoryview
) -> list[DescriptorChain]:
    """Make the chains of ``struct taken`` and their descriptors."""
    found = list(DESCRIPTOR.iter_unpack(copies))
    chains: list[DescriptorChain] = []
    start = 0
    for readable, writable, head, buffer_id, slots, number, reads, *_ in TAKEN.iter_unpack(rows):
        end = start + number
        chains.append(
            checked_chain(
                queue, found[start:end], reads, readable, writable, head, buffer_id, slots
            )
        )
        start = end
    return chains
