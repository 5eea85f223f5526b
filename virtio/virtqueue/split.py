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

from virtio.errors import DriverError
from virtio.virtqueue.batch import BatchOwner, ChainBatch, Columns, count_plain
from virtio.virtqueue.chain import (
    MAX_CHAIN_DESCRIPTORS,
    VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT,
    VIRTQ_DESC_F_WRITE,
    Descriptor,
    DescriptorChain,
    checked_chain,
)
from virtio.virtqueue.ring import BULK, DESCRIPTOR_BYTES, MAX_QUEUE_SIZE, Ring
from virtio.virtqueue.state import QueueLayout

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


class SplitRing(Ring):
    """A split virtqueue's rings. The positions are the free-running 16-bit indices of the two."""

    __slots__ = ("_avail", "_columns", "_elements", "_table", "_used")

    def __init__(self, owner: BatchOwner, layout: QueueLayout, features: int) -> None:
        super().__init__(owner, layout, features)
        size, window = self.size, self.window
        if not 1 <= size <= MAX_QUEUE_SIZE or size & (size - 1):
            raise self._breach(
                "SPL-02", f"size {size} must be a power of two up to {MAX_QUEUE_SIZE}"
            )
        event = 2 if self.event_idx else 0
        elements_end = 4 + 8 * size
        self._table = self._area("descriptor table", layout.descriptor_area, 16 * size, 16)
        avail = self._area("available ring", layout.driver_area, 4 + 2 * size + event, 2)
        used = self._area("used ring", layout.device_area, elements_end + event, 4)
        self._avail = window.words(avail, "H")
        self._used = window.words(used, "H")
        # The addresses, lengths and flags of all descriptors.
        self._columns = (
            window.column(self._table, "Q", 0, 2),
            window.column(self._table, "I", 2, 4),
            window.column(self._table, "H", 6, 8),
        )
        # As 32-bit words, element i is at 1 + 2 * i: its id, then its length.
        self._elements = window.words(used[:elements_end], "I")

    # Taking what the driver made available

    def take(self) -> DescriptorChain | None:
        """Return the next chain and move on; see :meth:`Ring.take`."""
        available = (self._avail[_IDX] - self.next_avail) & 0xFFFF
        if not available:
            return None
        if available + ((self.next_avail - self.next_used) & 0xFFFF) > self.size:
            raise self._overrun(available)
        return self._next()

    def take_batch(self, limit: int, header_bytes: int = -1) -> ChainBatch:
        """Take chains that are one descriptor each, or else any others; see the base class."""
        count = min(self._available(), limit)
        if count and (columns := self._take_plain(count)):
            batch = ChainBatch(self.owner)
            while columns:
                batch.add(*columns)
                columns = self._take_plain(count - batch.size)
            return batch
        chains: list[DescriptorChain] = []
        try:
            while len(chains) < count:
                chains.append(self._next())
        except DriverError:
            if not chains:
                raise
        return ChainBatch(self.owner, chains)

    def has_available(self) -> bool:
        """Tell whether the driver made a chain available that was not taken yet."""
        return self._avail[_IDX] != self.next_avail

    def _available(self) -> int:
        """Return how many chains wait, by one load of the index (``SPL-08``)."""
        available = (self._avail[_IDX] - self.next_avail) & 0xFFFF
        if available + ((self.next_avail - self.next_used) & 0xFFFF) > self.size and available:
            raise self._overrun(available)
        return available

    def _overrun(self, available: int) -> DriverError:
        in_flight = (self.next_avail - self.next_used) & 0xFFFF
        return self._breach(
            "SPL-10",
            f"available index is {available} ahead of {self.next_avail} with {in_flight}"
            f" chains in flight, the queue has {self.size} entries",
        )

    def _next(self) -> DescriptorChain:
        """Take the chain at ``next_avail``, which is available."""
        position, size = self.next_avail, self.size
        head = self._avail[_AVAIL_RING + position % size]
        if head >= size:
            raise self._breach("SPL-11", f"head index {head}, the queue has {size} entries", head)
        address, length, flags, following = _copy_descriptor(self._table, head * DESCRIPTOR_BYTES)
        first = address, length, flags
        window = self.window
        if flags & _CONTINUES or address < window.start or address + length > window.end:
            descriptors = self._descriptors(first, following, head)
            chain = DescriptorChain(self.owner, descriptors, head, head)
        elif flags & VIRTQ_DESC_F_WRITE:
            chain = checked_chain(self.owner, (first,), 0, 0, length, head, head, 1)
        else:
            chain = checked_chain(self.owner, (first,), 1, length, 0, head, head, 1)
        self.next_avail = (position + 1) & 0xFFFF
        return chain

    def _take_plain(self, available: int) -> Columns | None:
        """Take plain chains up to the end of the ring; None when there is none.

        All slots are loaded, then the descriptors (``SPL-08``). The fast path of "1 batch" in
        ``tests.perf.queues``.
        """
        position, size, table = self.next_avail, self.size, self._table
        start = position % size
        count = min(available, size - start)
        if not count:
            return None
        heads: list[int] = self._avail[_AVAIL_RING + start : _AVAIL_RING + start + count].tolist()
        if max(heads) >= size:
            heads = list(takewhile(size.__gt__, heads))
            if not heads:
                return None
        columns: Iterable[Sequence[int]]
        if len(heads) > 1 and size <= 2 * len(heads):  # most of the table: sooner copied whole
            pick = itemgetter(*heads)
            columns = [pick(column.tolist()) for column in self._columns]
        else:
            first = _copy_plain(table, heads[0] * DESCRIPTOR_BYTES)
            if first[2] & _CONTINUES:  # as others of this device will be
                return None
            others = [_copy_plain(table, head * DESCRIPTOR_BYTES) for head in heads[1:]]
            columns = zip(first, *others, strict=True)
        addresses, lengths, flags = columns
        count = count_plain(self.owner, addresses, lengths, flags, _CONTINUES, 0)
        if not count:
            return None
        self.next_avail = (position + count) & 0xFFFF
        return count, heads, heads, addresses, lengths, flags

    def _descriptors(self, first: Descriptor, following: int, head: int) -> list[Descriptor]:
        """Copy the other descriptors of a chain, each of them once (``SPL-09``)."""
        found = [first]
        if first[2] & _CONTINUES == VIRTQ_DESC_F_NEXT:
            self._walk(found, self._table, following, self.size - 1, head)
        if found[-1][2] & VIRTQ_DESC_F_INDIRECT:
            self._follow_indirect(found, head)
        return found

    def _follow_indirect(self, found: list[Descriptor], head: int) -> None:
        """Put the descriptors of an indirect table in the place of the one that points to it."""
        address, length, flags = found.pop()
        if not self.indirect:
            raise self._breach("SPL-24", "indirect descriptor, but not negotiated", head)
        if flags & VIRTQ_DESC_F_NEXT:
            raise self._breach("SPL-27", "descriptor is both indirect and continued", head)
        table = self._indirect_table("SPL-29", address, length, head)
        self._walk(found, table, 0, len(table) // DESCRIPTOR_BYTES, head)
        if found[-1][2] & VIRTQ_DESC_F_INDIRECT:
            raise self._breach("SPL-28", "indirect descriptor inside an indirect table", head)

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
                raise self._breach("SPL-12", f"next is {index}, the table ends at {entries}", head)
            address, length, flags, following = _copy_descriptor(table, index * DESCRIPTOR_BYTES)
            found.append((address, length, flags))
            if len(found) > MAX_CHAIN_DESCRIPTORS:
                raise self._breach("SPL-20", f"over {MAX_CHAIN_DESCRIPTORS} descriptors", head)
            if flags & _CONTINUES != VIRTQ_DESC_F_NEXT:
                return
            index = following
        raise self._breach("SPL-13", f"loop in a table of {entries} descriptors", head)

    # Giving it back

    def give_back(
        self, ids: Sequence[int], lengths: Sequence[int], slots: Sequence[int], bytes_read: int
    ) -> None:
        """Write used elements, the index after them, and count; see the base class."""
        self.completed += len(ids)
        self.bytes_read += bytes_read
        self.bytes_written += sum(lengths)
        elements, size, position = self._elements, self.size, self.next_used
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
        self.next_used = (position + count) & 0xFFFF
        self.unsignalled += count
        self._used[_IDX] = self.next_used

    # Notifications

    def wants_notification(self) -> bool:
        """Tell whether the driver wants to hear; see :meth:`Ring.wants_notification`."""
        count, self.unsignalled = self.unsignalled, 0
        if not count:
            return False
        with self.fence:
            pass
        if not self.event_idx:
            return not self._avail[_FLAGS] & VIRTQ_AVAIL_F_NO_INTERRUPT
        # The driver waits for the entry numbered used_event: is it one of the last ``count``?
        used_event = self._avail[_AVAIL_RING + self.size]
        return (self.next_used - used_event - 1) & 0xFFFF < count

    def request_notification(self) -> bool:
        """Ask for a notification of the next chain; tells whether one is available already."""
        if self.event_idx:
            self._used[-1] = self.next_avail
        else:
            self._used[_FLAGS] = 0
        with self.fence:
            pass
        return self._avail[_IDX] != self.next_avail

    def decline_notification(self) -> None:
        """Tell the driver that no notification is needed; a hint only."""
        # With EVENT_IDX the flags stay 0: the stale avail_event keeps the driver quiet (SPL-43).
        if not self.event_idx:
            self._used[_FLAGS] = VIRTQ_USED_F_NO_NOTIFY
