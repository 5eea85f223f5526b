"""Batches of chains that ``batch.c`` has taken, and the layouts of what it says of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, cast

from virtio.native._native import ffi, lib
from virtio.virtqueue.batch import ChainBatch
from virtio.virtqueue.chain import DescriptorChain, checked_chain
from virtio.virtqueue.request import Request

if TYPE_CHECKING:
    from virtio.virtqueue.queue import Queue

PLAIN: Final = Struct("<QIHHH6x")
DESCRIPTOR: Final = Struct("<QIH10x")  # the same without head and id
TAKEN: Final = Struct("<QQIIIII92x")
FRAME: Final = Struct("<36xIQQI")  # of the same: kind, data, status and data_bytes
DATA_IN: Final = int(lib.DATA_IN)
assert PLAIN.size == DESCRIPTOR.size == ffi.sizeof("struct plain")
assert TAKEN.size == ffi.sizeof("struct taken")
_HEADER_AT: Final = FRAME.size
_TAKEN_BYTES: Final = TAKEN.size
_DESCRIPTOR_BYTES: Final = DESCRIPTOR.size
_row_of = TAKEN.unpack_from
_frame_of = FRAME.unpack_from
assert FRAME.size == ffi.offsetof("struct taken", "header")
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

    ``taken`` is what C says of them, and then of their descriptors; frames with a header of
    ``header_bytes`` were looked for.
    """

    __slots__ = ("_header_bytes", "_taken", "size")

    def __init__(self, queue: Queue, size: int, taken: bytes, header_bytes: int = 0) -> None:
        # No columns: the few steps of this are taken for each request at depth 1.
        self._queue = queue
        self._chains = None
        self.size = size
        self._taken = taken
        self._header_bytes = header_bytes

    @property
    def readable_lengths(self) -> list[int]:
        """How many bytes of each chain the device may read."""
        if self._chains is None:
            return [row[0] for row in self._rows()]
        return super().readable_lengths

    @property
    def writable_lengths(self) -> list[int]:
        """How many bytes of each chain the device may write."""
        if self._chains is None:
            return [row[1] for row in self._rows()]
        return super().writable_lengths

    @property
    def readable_bytes(self) -> int:
        """How many bytes the device may read, in all chains together."""
        return sum(self.readable_lengths)

    @property
    def is_plain(self) -> bool:
        """Whether each chain is one descriptor."""
        return len(self._taken) == self.size * (TAKEN.size + DESCRIPTOR.size)

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        return TAKEN.iter_unpack(memoryview(self._taken)[: self.size * TAKEN.size])

    def write_each(self, parts: Iterable[bytes]) -> list[int]:
        """Copy one part to each chain, most of them without having to make the chain."""
        queue, taken = self._queue, self._taken
        if queue._lean is not self:
            return super().write_each(parts)
        window = queue._window
        lengths: list[int] = []
        for at, part in zip(range(0, self.size * _TAKEN_BYTES, _TAKEN_BYTES), parts, strict=True):
            _, data, _, room = _frame_of(taken, at)
            length = len(part)
            if length <= room:
                window[data : data + length] = part
            else:
                length = self[len(lengths)].write(part)
            lengths.append(length)
        return lengths

    def frames(self, layout: Struct) -> list[Request]:
        """Return each chain as a frame, most of them without having to make the chain."""
        queue, taken = self._queue, self._taken
        if queue._lean is not self or self._header_bytes != layout.size:
            return super().frames(layout)
        frames: list[Request] = []
        nothing: list[memoryview] = []
        window = queue._window
        for index, at in enumerate(range(0, self.size * _TAKEN_BYTES, _TAKEN_BYTES)):
            kind, data, status, length = _frame_of(taken, at)
            if not kind:
                frames.append(Request.of(self, index, layout))
                continue
            frame = _new(Request)
            frame._batch = self
            frame._index = index
            frame._status = window
            frame._status_at = status
            frame.header = layout.unpack_from(taken, at + _HEADER_AT)
            views = [window[data : data + length]] if length else nothing
            if kind == DATA_IN:
                frame.data_out, frame.data_out_bytes = nothing, 0
                frame.data_in, frame.data_in_bytes = views, length
            else:
                frame.data_out, frame.data_out_bytes = views, length
                frame.data_in, frame.data_in_bytes = nothing, 0
            frames.append(frame)
        return frames

    def make_chains(self) -> list[DescriptorChain]:
        """Return the chains; they are made now, unless they exist."""
        if self._chains is None:
            chains = self._new_chains()
            self._keep(chains)
            return chains
        return self._chains

    def give_back(self, lengths: Sequence[int | None]) -> bool:
        """Leave it to the chains; :meth:`Queue.exchange` is what gives them back at once."""
        return False

    def __len__(self) -> int:
        return self.size

    def _new_chains(self) -> list[DescriptorChain]:
        queue, taken = self._queue, self._taken
        chains: list[DescriptorChain] = []
        start = self.size * _TAKEN_BYTES
        for at in range(0, start, _TAKEN_BYTES):
            readable, writable, head, buffer_id, slots, number, reads = _row_of(taken, at)
            end = start + number * _DESCRIPTOR_BYTES
            copies = list(DESCRIPTOR.iter_unpack(taken[start:end]))
            chains.append(
                checked_chain(queue, copies, reads, readable, writable, head, buffer_id, slots)
            )
            start = end
        return chains


_new = object.__new__
