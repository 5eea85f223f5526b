"""The packed virtqueue: one ring, where used descriptors overwrite available ones.

VIRTIO 1.4 "Packed Virtqueues". All fields are little-endian::

    struct pvirtq_desc           { le64 addr; le32 len; le16 id; le16 flags; };    // 16 bytes
    struct pvirtq_event_suppress { le16 desc;    // offset : 15, wrap counter : 1
                                   le16 flags; };

Positions count ring entries modulo twice the queue size N: the entry is the position modulo N, and
the wrap counter is 1 in the first N of them and 0 in the second. So a position is all that either
side has to remember, and the distance between two positions is a subtraction.
"""

from array import array
from collections.abc import Sequence
from itertools import takewhile
from struct import Struct, pack
from typing import Final

from virtio.errors import DriverError
from virtio.virtqueue.batch import BatchOwner, ChainBatch, Columns, all_flags_are, count_plain
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

VRING_PACKED_DESC_F_AVAIL: Final = 1 << 7
VRING_PACKED_DESC_F_USED: Final = 1 << 15
VRING_PACKED_EVENT_FLAG_ENABLE: Final = 0
VRING_PACKED_EVENT_FLAG_DISABLE: Final = 1
VRING_PACKED_EVENT_FLAG_DESC: Final = 2
VRING_PACKED_EVENT_F_WRAP_CTR: Final = 15

_BOTH: Final = VRING_PACKED_DESC_F_AVAIL | VRING_PACKED_DESC_F_USED
_NEXT_OR_INDIRECT: Final = VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_INDIRECT
_NOT_PLAIN: Final = _BOTH | _NEXT_OR_INDIRECT
_OFFSET: Final = (1 << VRING_PACKED_EVENT_F_WRAP_CTR) - 1

# The flags of a ring entry are loaded on their own, before the rest.
_copy_descriptor = Struct("<QIH").unpack_from
_copy_indirect = Struct("<QIHH").unpack_from

# Fields of a ring entry as words of 16 and 32 bits, and of an event suppression structure.
_LEN_32: Final = 2
_ID_16: Final = 6
_FLAGS_16: Final = 7
_EVENT_DESC: Final = 0
_EVENT_FLAGS: Final = 1


class PackedRing(Ring):
    """A packed virtqueue's ring. Its size need not be a power of two (``PKD-02``)."""

    __slots__ = ("_device_event", "_driver_event", "_ring", "_words16", "_words32", "_words64")

    def __init__(self, owner: BatchOwner, layout: QueueLayout, features: int) -> None:
        super().__init__(owner, layout, features)
        size, window = self.size, self.window
        if not 1 <= size <= MAX_QUEUE_SIZE:
            raise self._breach("PKD-02", f"size {size} must be 1 to {MAX_QUEUE_SIZE}")
        self._ring = self._area("descriptor ring", layout.descriptor_area, 16 * size, 16)
        driver = self._area("driver event suppression", layout.driver_area, 4, 4)
        device = self._area("device event suppression", layout.device_area, 4, 4)
        self._words16 = window.words(self._ring, "H")
        self._words32 = window.words(self._ring, "I")
        self._words64 = window.words(self._ring, "Q")
        self._driver_event = window.words(driver, "H")
        self._device_event = window.words(device, "H")

    # Taking what the driver made available

    def take(self) -> DescriptorChain | None:
        """Return the next chain and move on; see :meth:`Ring.take`."""
        position, size, window = self.next_avail, self.size, self.window
        flags = self._available_flags(position)
        if flags is None:
            return None
        head = position % size
        in_flight = (position - self.next_used) % (2 * size)
        descriptors, buffer_id = self._list(position, flags, size - in_flight)
        first = address, length, flags = descriptors[0]
        slots = len(descriptors)
        if flags & VIRTQ_DESC_F_INDIRECT:
            descriptors = self._indirect_descriptors(first, head)
        if flags & _NEXT_OR_INDIRECT or address < window.start or address + length > window.end:
            chain = DescriptorChain(self.owner, descriptors, head, buffer_id, slots)
        elif flags & VIRTQ_DESC_F_WRITE:
            chain = checked_chain(self.owner, descriptors, 0, 0, length, head, buffer_id, 1)
        else:
            chain = checked_chain(self.owner, descriptors, 1, length, 0, head, buffer_id, 1)
        self.next_avail = (position + slots) % (2 * size)
        return chain

    def take_batch(self, limit: int, header_bytes: int = -1) -> ChainBatch:
        """Take chains that are one descriptor each, or else any others; see the base class."""
        if columns := self._take_plain(limit):
            batch = ChainBatch(self.owner)
            while columns:
                batch.add(*columns)
                columns = self._take_plain(limit - batch.size)
            return batch
        chains: list[DescriptorChain] = []
        try:
            while len(chains) < limit and (chain := self.take()) is not None:
                chains.append(chain)
        except DriverError:
            if not chains:
                raise
        return ChainBatch(self.owner, chains)

    def has_available(self) -> bool:
        """Tell whether the driver made a chain available that was not taken yet."""
        return self._available_flags(self.next_avail) is not None

    def _take_plain(self, limit: int) -> Columns | None:
        """Take plain chains up to the end of the ring; None when there is none.

        All flags are loaded, each once, then the other fields (``PKD-05``). The fast path of
        "1 batch" in ``tests.perf.queues``.
        """
        position, size = self.next_avail, self.size
        start = position % size
        in_flight = (position - self.next_used) % (2 * size)
        end = min(start + limit, start + size - in_flight, size)
        available = VRING_PACKED_DESC_F_AVAIL if position < size else VRING_PACKED_DESC_F_USED
        flags: list[int] = self._words16[8 * start + _FLAGS_16 : 8 * end : 8].tolist()
        if not flags:
            return None
        if not all_flags_are(flags, _NOT_PLAIN, available):
            flags = list(takewhile(lambda one: one & _NOT_PLAIN == available, flags))
            if not flags:
                return None
        end = start + len(flags)
        addresses: list[int] = self._words64[2 * start : 2 * end : 2].tolist()
        lengths: list[int] = self._words32[4 * start + _LEN_32 : 4 * end : 4].tolist()
        count = count_plain(self.owner, addresses, lengths, flags, _NOT_PLAIN, available)
        buffer_ids: list[int] = self._words16[8 * start + _ID_16 : 8 * end : 8].tolist()
        self.next_avail = (position + count) % (2 * size)
        return (count, range(start, end), buffer_ids, addresses, lengths, flags) if count else None

    def _available_flags(self, position: int) -> int | None:
        """Return the flags of the descriptor at ``position`` if it is available (PKD-04).

        They are loaded once, and before the other fields (PKD-05).
        """
        size = self.size
        if position < size:
            flags = self._words16[8 * position + _FLAGS_16]
            return flags if flags & _BOTH == VRING_PACKED_DESC_F_AVAIL else None
        flags = self._words16[8 * (position - size) + _FLAGS_16]
        return flags if flags & _BOTH == VRING_PACKED_DESC_F_USED else None

    def _list(self, position: int, flags: int, room: int) -> tuple[list[Descriptor], int]:
        """Copy the descriptors of a list, and the buffer id, which is in the last (PKD-11).

        ``room`` is the number of entries that are not in use by chains still out: a list that
        needs more runs into its own or into their descriptors (PKD-12).
        """
        head = position % self.size
        found: list[Descriptor] = []
        while True:
            if len(found) == room:
                raise self._breach("PKD-12", f"list goes on past the {room} entries left", head)
            if len(found) == MAX_CHAIN_DESCRIPTORS:
                raise self._breach("SPL-20", f"over {MAX_CHAIN_DESCRIPTORS} descriptors", head)
            address, length, buffer_id = _copy_descriptor(self._ring, position % self.size * 16)
            found.append((address, length, flags))
            if flags & VIRTQ_DESC_F_INDIRECT and (found[1:] or flags & VIRTQ_DESC_F_NEXT):
                raise self._breach("PKD-14", "indirect descriptor in a list", head)
            if not flags & VIRTQ_DESC_F_NEXT:
                return found, buffer_id
            position = (position + 1) % (2 * self.size)
            following = self._available_flags(position)
            if following is None:
                raise self._breach("PKD-12", "list goes on into an entry not available", head)
            flags = following

    def _indirect_descriptors(self, pointer: Descriptor, head: int) -> list[Descriptor]:
        """Copy the entries of an indirect table; of their flags only WRITE counts (PKD-13)."""
        if not self.indirect:
            raise self._breach("PKD-14", "indirect descriptor, but not negotiated", head)
        address, length, _ = pointer
        entries = length // DESCRIPTOR_BYTES
        if entries > MAX_CHAIN_DESCRIPTORS:
            raise self._breach("SPL-20", f"over {MAX_CHAIN_DESCRIPTORS} descriptors", head)
        table = self._indirect_table("PKD-14", address, length, head)
        found: list[Descriptor] = []
        for offset in range(0, length, DESCRIPTOR_BYTES):
            address, length, _, flags = _copy_indirect(table, offset)
            found.append((address, length, flags & VIRTQ_DESC_F_WRITE))
        return found

    # Giving it back

    def give_back(
        self, ids: Sequence[int], lengths: Sequence[int], slots: Sequence[int], bytes_read: int
    ) -> None:
        """Write the used entries in completion order (``PKD-09``), the first one's flags last.

        The driver looks at the first of them only, so it sees all or nothing (``PKD-21``).
        """
        self.completed += len(ids)
        self.bytes_read += bytes_read
        self.bytes_written += sum(lengths)
        first = self.next_used
        taken = sum(slots)
        if taken == len(ids) >= BULK:
            self._write_run(ids, lengths)
        else:
            self._write_entries(ids, lengths, slots)
        self.next_used = (first + taken) % (2 * self.size)
        self.unsignalled += taken
        self._words16[8 * (first % self.size) + _FLAGS_16] = self._used_flags(first, lengths[0])

    def _used_flags(self, position: int, length: int) -> int:
        flags = _BOTH if position < self.size else 0
        return flags | VIRTQ_DESC_F_WRITE if length else flags

    def _write_entries(
        self, ids: Sequence[int], lengths: Sequence[int], slots: Sequence[int]
    ) -> None:
        """Write used entries one by one, all but the flags of the first."""
        size, position = self.size, self.next_used
        for number, count in enumerate(slots):
            entry = position % size
            self._words32[4 * entry + _LEN_32] = lengths[number]
            self._words16[8 * entry + _ID_16] = ids[number]
            if number:
                flags = self._used_flags(position, lengths[number])
                self._words16[8 * entry + _FLAGS_16] = flags
            position = (position + count) % (2 * size)

    def _write_run(self, ids: Sequence[int], lengths: Sequence[int]) -> None:
        """Write used entries that follow each other, all but the flags of the first, in columns.

        The fast path of "1 batch" in ``tests.perf.queues``.
        """
        size, position = self.size, self.next_used
        start, count = position % size, len(ids)
        before_the_end = min(count, size - start)
        runs = [(start, 0, before_the_end)]
        if before_the_end < count:
            runs.append((0, before_the_end, count))
        for entry, begin, end in runs:
            used = _BOTH if (position + begin) % (2 * size) < size else 0
            if all(lengths[begin:end]):
                flags = array("H", [used | VIRTQ_DESC_F_WRITE]) * (end - begin)
            else:
                each = (used | VIRTQ_DESC_F_WRITE if n else used for n in lengths[begin:end])
                flags = array("H", each)
            skip = not begin
            last = entry + end - begin
            self._words32[4 * entry + _LEN_32 : 4 * last : 4] = array("I", lengths[begin:end])
            self._words16[8 * entry + _ID_16 : 8 * last : 8] = _half_words(ids[begin:end])
            self._words16[8 * (entry + skip) + _FLAGS_16 : 8 * last : 8] = flags[skip:]

    # Notifications

    def wants_notification(self) -> bool:
        """Tell whether the driver wants to hear; see :meth:`Ring.wants_notification`."""
        count, self.unsignalled = self.unsignalled, 0
        if not count:
            return False
        with self.fence:
            pass
        flags = self._driver_event[_EVENT_FLAGS] & 3
        if flags == VRING_PACKED_EVENT_FLAG_DISABLE:
            return False
        if flags != VRING_PACKED_EVENT_FLAG_DESC or not self.event_idx:
            return True
        # The driver waits for the entry at this position: is it one of the last ``count``?
        event = self._driver_event[_EVENT_DESC]
        offset = event & _OFFSET
        if offset >= self.size:
            return False
        position = offset if event >> VRING_PACKED_EVENT_F_WRAP_CTR else offset + self.size
        return (self.next_used - position - 1) % (2 * self.size) < count

    def request_notification(self) -> bool:
        """Ask for a notification of the next chain; tells whether one is available already."""
        if self.event_idx:
            slot, wrap = self.next_avail % self.size, self.next_avail < self.size
            self._device_event[_EVENT_DESC] = slot | wrap << VRING_PACKED_EVENT_F_WRAP_CTR
            self._device_event[_EVENT_FLAGS] = VRING_PACKED_EVENT_FLAG_DESC
        else:
            self._device_event[_EVENT_FLAGS] = VRING_PACKED_EVENT_FLAG_ENABLE
        with self.fence:
            pass
        return self._available_flags(self.next_avail) is not None

    def decline_notification(self) -> None:
        """Tell the driver that no notification is needed; a hint only."""
        self._device_event[_EVENT_FLAGS] = VRING_PACKED_EVENT_FLAG_DISABLE


def _half_words(values: Sequence[int]) -> memoryview:
    """Return 16-bit words; ``array("H", values)`` takes three times as long."""
    return memoryview(pack(f"{len(values)}H", *values)).cast("H")
