"""Batches of chains that ``batch.c`` has taken, and the layouts of what it says of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import Any, Final, cast

from virtio.native._native import ffi, lib
from virtio.virtqueue.batch import BatchOwner, ChainBatch
from virtio.virtqueue.chain import DescriptorChain, checked_chain
from virtio.virtqueue.request import Request

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


class PlainBatch(ChainBatch):
    """A batch of chains of one descriptor each, whose columns stay in C until somebody asks."""

    __slots__ = ("plain",)

    def __init__(self, owner: BatchOwner, plain: Any, count: int) -> None:
        super().__init__(owner)
        self.plain = plain
        self.size = count

    @property
    def writable_lengths(self) -> list[int]:
        """How many bytes of each chain the device may write."""
        if self._chains is None and self._rooms is None:
            rooms = array("I", bytes(4 * self.size))
            lib.get_rooms(self.plain, self.size, ffi.from_buffer("uint32_t[]", rooms))
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

    def column(self, lengths: Sequence[int | None]) -> Any:
        """Return lengths as C takes them; None when one is none or has no room at all."""
        try:
            column = array("I", cast(Sequence[int], lengths))
        except (TypeError, OverflowError):
            return None
        return ffi.from_buffer("uint32_t[]", column)

    def _new_chains(self) -> list[DescriptorChain]:
        self._unpack()
        return super()._new_chains()

    def _unpack(self) -> None:
        if self._chains is None and self.size and not self.heads:
            rows = PLAIN.iter_unpack(ffi.buffer(self.plain, self.size * PLAIN.size))
            columns = zip(*rows, strict=True)
            self.addresses, self.lengths, self.flags, self.heads, self.buffer_ids = columns


class NativeBatch(ChainBatch):
    """A batch of ``size`` chains of any shape.

    ``taken`` is what C says of them, and then of their descriptors; frames with a header of
    ``header_bytes`` were looked for.
    """

    __slots__ = ("_header_bytes", "_taken")

    def __init__(self, owner: BatchOwner, size: int, taken: bytes, header_bytes: int = 0) -> None:
        # No columns: the few steps of this are taken for each request at depth 1.
        self.owner = owner
        self.out = True
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
        """Copy one part to each chain, most without having to make the chain."""
        taken = self._taken
        if not self.out:
            return super().write_each(parts)
        window = self.owner.window.bytes
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

    def requests(self, layout: Struct) -> list[Request]:
        """Return each chain as a request, most of them without having to make the chain."""
        taken = self._taken
        if not self.out or self._header_bytes != layout.size:
            return super().requests(layout)
        requests: list[Request] = []
        nothing: list[memoryview] = []
        window = self.owner.window.bytes
        for index, at in enumerate(range(0, self.size * _TAKEN_BYTES, _TAKEN_BYTES)):
            kind, data, status, length = _frame_of(taken, at)
            if not kind:
                requests.append(Request.of(self, index, self[index], layout))
                continue
            request = _new(Request)
            request.batch = self
            request.index = index
            request.status = window
            request.status_at = status
            request.header = layout.unpack_from(taken, at + _HEADER_AT)
            views = [window[data : data + length]] if length else nothing
            if kind == DATA_IN:
                request.data_out, request.data_out_bytes = nothing, 0
                request.data_in, request.data_in_bytes = views, length
            else:
                request.data_out, request.data_out_bytes = views, length
                request.data_in, request.data_in_bytes = nothing, 0
            requests.append(request)
        return requests

    def _new_chains(self) -> list[DescriptorChain]:
        owner, taken = self.owner, self._taken
        chains: list[DescriptorChain] = []
        start = self.size * _TAKEN_BYTES
        for at in range(0, start, _TAKEN_BYTES):
            readable, writable, head, buffer_id, slots, number, reads = _row_of(taken, at)
            end = start + number * _DESCRIPTOR_BYTES
            copies = list(DESCRIPTOR.iter_unpack(taken[start:end]))
            chains.append(
                checked_chain(owner, copies, reads, readable, writable, head, buffer_id, slots)
            )
            start = end
        return chains


_new = object.__new__
