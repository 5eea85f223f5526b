"""The split virtqueue: descriptor table, available ring and used ring in three places.

VIRTIO 1.4 "Split Virtqueues". All fields are little-endian::

    struct virtq_desc  { le64 addr; le32 len; le16 flags; le16 next; };            // 16 bytes
    struct virtq_avail { le16 flags; le16 idx; le16 ring[N]; le16 used_event; };
    struct virtq_used  { le16 flags; le16 idx; struct { le32 id; le32 len; } ring[N];
                         le16 avail_event; };

``used_event`` and ``avail_event`` exist only with ``VIRTIO_RING_F_EVENT_IDX`` (SPL-05).
"""

from array import array
from collections.abc import Iterable, Sequence
from itertools import takewhile
from operator import itemgetter
from struct import Struct
from typing import Final

from virtio.virtqueue.batch import ChainBatch
from virtio.virtqueue.chain import (
    MAX_CHAIN_DESCRIPTORS,
    VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT,
    Descriptor,
    DescriptorChain,
    plain_chain,
)
from virtio.virtqueue.queue import BULK, DESCRIPTOR_BYTES, MAX_QUEUE_SIZE, Queue

VIRTQ_AVAIL_F_NO_INTERRUPT: Final = 1
VIRTQ_USED_F_NO_NOTIFY: Final = 1

_DESCRIPTOR = Struct("<QIHH")
assert _DESCRIPTOR.size == DESCRIPTOR_BYTES
_copy_descriptor = _DESCRIPTOR.unpack_from
_copy_plain = Struct("<QIH2x").unpack_from  # without ``next``, which means nothing there

# Positions in the rings, seen as 16-bit words.
_FLAGS: Final = 0
_IDX: Final = 1
_AVAIL_RING: Final = 2

_CONTINUES: Final = VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_INDIRECT


class SplitQueue(Queue):
    """A split virtqueue. Its positions are the free-running 16-bit indices of its two rings."""

    __slots__ = ("_avail", "_columns", "_elements", "_table", "_used")

    def _map_rings(self) -> None:
        size, layout = self.size, self.layout
        if not 1 <= size <= MAX_QUEUE_SIZE or size & (size - 1):
            raise self._error("SPL-02", f"size {size} is not a power of two up to {MAX_QUEUE_SIZE}")
        event = 2 if self._event_idx else 0
        elements_end = 4 + 8 * size
        self._table = self._part("descriptor table", layout.descriptor_area, 16 * size, 16)
        avail = self._part("available ring", layout.driver_area, 4 + 2 * size + event, 2)
        used = self._part("used ring", layout.device_area, elements_end + event, 4)
        self._avail = self._words(avail, "H")
        self._used = self._words(used, "H")
        # The addresses, lengths and flags of all descriptors.
        self._columns = (
            self._column(self._table, "Q", 0, 2),
            self._column(self._table, "I", 2, 4),
            self._column(self._table, "H", 6, 8),
        )
        # As 32-bit words, element i is at 1 + 2 * i: its id, then its length.
        self._elements = self._words(used[:elements_end], "I")

    def _take(self) -> DescriptorChain | None:
        # One load of the index, then the slot, then the descriptors (SPL-08).
        position, size = self._next_avail, self.size
        available = (self._avail[_IDX] - position) & 0xFFFF
        if not available:
            return None
        in_flight = (position - self._next_used) & 0xFFFF
        if available + in_flight > size:
            raise self._error(
                "SPL-10",
                f"available index is {available} ahead of {position} with {in_flight} chains in"
                f" flight, the queue has {size} entries",
            )
        head = self._avail[_AVAIL_RING + position % size]
        if head >= size:
            raise self._error("SPL-11", f"head index {head}, the queue has {size} entries", head)
        address, length, flags, following = _copy_descriptor(self._table, head * DESCRIPTOR_BYTES)
        first = address, length, flags
        if (
            flags & _CONTINUES
            or address < self._window_start
            or address + length > self._window_end
        ):
            chain = DescriptorChain(self, self._descriptors(first, following, head), head, head)
        else:
            chain = plain_chain(self, first, head, head)
        self._next_avail = (position + 1) & 0xFFFF
        return chain

    def _take_plain(self, batch: ChainBatch, limit: int) -> bool:
        # One load of the index, then all slots up to the ring's end, then the descriptors (SPL-08).
        position, size, table = self._next_avail, self.size, self._table
        available = (self._avail[_IDX] - position) & 0xFFFF
        if not available or available + ((position - self._next_used) & 0xFFFF) > size:
            return False
        start = position % size
        count = min(available, limit, size - start)
        heads: list[int] = self._avail[_AVAIL_RING + start : _AVAIL_RING + start + count].tolist()
        if max(heads) >= size:
            heads = list(takewhile(size.__gt__, heads))
            if not heads:
                return False
        columns: Iterable[Sequence[int]]
        if len(heads) > 1 and size <= 2 * len(heads):  # most of the table: sooner copied whole
            pick = itemgetter(*heads)
            columns = [pick(column.tolist()) for column in self._columns]
        else:
            first = _copy_plain(table, heads[0] * DESCRIPTOR_BYTES)
            if first[2] & _CONTINUES:  # as others of this device will be
                return False
            others = [_copy_plain(table, head * DESCRIPTOR_BYTES) for head in heads[1:]]
            columns = zip(first, *others, strict=True)
        addresses, lengths, flags = columns
        count = batch.count_plain(addresses, lengths, flags, _CONTINUES, 0)
        batch.add(count, heads, heads, addresses, lengths, flags)
        self._next_avail = (position + count) & 0xFFFF
        return count > 0

    def _has_available(self) -> bool:
        return self._avail[_IDX] != self._next_avail

    def _descriptors(self, first: Descriptor, following: int, head: int) -> list[Descriptor]:
        """Copy the other descriptors of a chain, each of them once (SPL-09)."""
        found = [first]
        if first[2] & _CONTINUES == VIRTQ_DESC_F_NEXT:
            self._walk(found, self._table, following, self.size - 1, head)
        if found[-1][2] & VIRTQ_DESC_F_INDIRECT:
            self._follow_indirect(found, head)
        return found

    def _follow_indirect(self, found: list[Descriptor], head: int) -> None:
        """Put the descriptors of an indirect table in the place of the one that points to it."""
        address, length, flags = found.pop()
        if not self._indirect:
            raise self._error("SPL-24", "indirect descriptor, but not negotiated", head)
        if flags & VIRTQ_DESC_F_NEXT:
            raise self._error("SPL-27", "descriptor is both indirect and continued", head)
        table = self._indirect_table("SPL-29", address, length, head)
        self._walk(found, table, 0, len(table) // DESCRIPTOR_BYTES, head)
        if found[-1][2] & VIRTQ_DESC_F_INDIRECT:
            raise self._error("SPL-28", "indirect descriptor inside an indirect table", head)

    def _walk(
        self,
        found: list[Descriptor],
        table: memoryview | bytes,
        index: int,
        steps: int,
        head: int,
    ) -> None:
        """Copy descriptors along ``next`` from ``index`` on, up to the last or an indirect one.

        A walk of more than ``steps`` has come to a descriptor twice: a loop (SPL-13).
        """
        entries = len(table) // DESCRIPTOR_BYTES
        for _ in range(steps):
            if index >= entries:
                raise self._error("SPL-12", f"next is {index}, the table ends at {entries}", head)
            address, length, flags, following = _copy_descriptor(table, index * DESCRIPTOR_BYTES)
            found.append((address, length, flags))
            if len(found) > MAX_CHAIN_DESCRIPTORS:
                raise self._error("SPL-20", f"over {MAX_CHAIN_DESCRIPTORS} descriptors", head)
            if flags & _CONTINUES != VIRTQ_DESC_F_NEXT:
                return
            index = following
        raise self._error("SPL-13", f"loop in a table of {entries} descriptors", head)

    def _publish(self, ids: Sequence[int], lengths: Sequence[int], slots: Sequence[int]) -> None:
        elements, size, position = self._elements, self.size, self._next_used
        count, start = len(ids), position % size
        if count < BULK:
            for number in range(count):
                element = 1 + 2 * ((start + number) % size)
                elements[element] = ids[number]
                elements[element + 1] = lengths[number]
        else:
            before_the_end = min(count, size - start)
            runs = [(start, 0, before_the_end)]
            if before_the_end < count:
                runs.append((0, before_the_end, count))
            for first, begin, end in runs:
                last = 1 + 2 * (first + end - begin)
                elements[1 + 2 * first : last : 2] = array("I", ids[begin:end])
                elements[2 + 2 * first : last : 2] = array("I", lengths[begin:end])
        self._next_used = (position + count) & 0xFFFF
        self._unsignalled += count
        self._used[_IDX] = self._next_used

    def _driver_wants_notification(self, count: int) -> bool:
        if not self._event_idx:
            return not self._avail[_FLAGS] & VIRTQ_AVAIL_F_NO_INTERRUPT
        # The driver waits for the entry numbered used_event: is it one of the last ``count``?
        used_event = self._avail[_AVAIL_RING + self.size]
        return (self._next_used - used_event - 1) & 0xFFFF < count

    def _request_notification(self) -> None:
        if self._event_idx:
            self._used[-1] = self._next_avail
        else:
            self._used[_FLAGS] = 0

    def _decline_notification(self) -> None:
        # With EVENT_IDX the flags stay 0: the stale avail_event keeps the driver quiet (SPL-43).
        if not self._event_idx:
            self._used[_FLAGS] = VIRTQ_USED_F_NO_NOTIFY
