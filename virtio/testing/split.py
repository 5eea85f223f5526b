"""The driver's side of a split virtqueue. VIRTIO 1.4 "Split Virtqueues"."""

import struct
from collections.abc import Sequence

from virtio.memory import GuestMemory
from virtio.testing.driver import Pending, QueueDriver, QueueFull, RingLayout, Segment, Used


class SplitDriver(QueueDriver):
    """A split virtqueue as a driver builds it.

    ``start`` is the ring index at which both sides begin. The rest is as in :class:`QueueDriver`.
    """

    def __init__(
        self,
        memory: GuestMemory,
        size: int,
        *,
        base: int = 0x1000,
        event_idx: bool = False,
        indirect: bool = False,
        start: int = 0,
    ) -> None:
        super().__init__(memory, size, base=base, event_idx=event_idx, indirect=indirect)
        self._free = list(range(size))
        self._next_avail = self._kicked = self._last_used = start
        self.set_avail_idx(start)
        self._used_words[1] = start

    # Rings

    def _lay_out(self) -> RingLayout:
        size = self.size
        table = self.arena.allocate(16 * size)
        avail = self.arena.allocate(6 + 2 * size)
        used = self.arena.allocate(6 + 8 * size)
        self._table = self.memory.view(table, 16 * size)
        self._avail_words = self.memory.view(avail, 6 + 2 * size).cast("H")
        self._used_words = self.memory.view(used, 6 + 8 * size).cast("H")
        return RingLayout(size, table, avail, used)

    def _expose(self, pending: Pending, segments: Sequence[Segment], *, indirect: bool) -> None:
        if len(segments) > len(self._free):
            raise QueueFull(f"{len(segments)} descriptors needed, {len(self._free)} are free")
        pending.entries = [self._free.pop(0) for _ in segments]
        following = [*pending.entries[1:], 0]
        for index, segment, after in zip(pending.entries, segments, following, strict=True):
            flags = (2 if segment.writable else 0) | (4 if indirect else 0)
            flags |= 0 if index == pending.entries[-1] else 1
            self.write_descriptor(index, segment.address, segment.length, flags, after)
        head = pending.entries[0]
        self._pending[head] = pending
        self.write_avail_slot(self._next_avail % self.size, head)
        self._next_avail = (self._next_avail + 1) & 0xFFFF

    def publish(self) -> None:
        self.set_avail_idx(self._next_avail)

    def collect(self) -> list[Used]:
        found = []
        while self._last_used != self.used_idx:
            head, length = self.used_element(self._last_used % self.size)
            used, pending = self._used(head, length)
            self._free += pending.entries
            self._last_used = (self._last_used + 1) & 0xFFFF
            found.append(used)
        return found

    # Notifications

    def should_kick(self) -> bool:
        old, self._kicked = self._kicked, self._next_avail
        if not self.event_idx:
            return self.used_flags & 1 == 0
        passed = (self._next_avail - self.avail_event - 1) & 0xFFFF
        return passed < (self._next_avail - old) & 0xFFFF

    def want_interrupts(self) -> None:
        if self.event_idx:
            self.set_used_event(self._last_used)
        else:
            self.set_avail_flags(0)

    def suppress_interrupts(self) -> None:
        if self.event_idx:
            self.set_used_event((self._last_used - 1) & 0xFFFF)
        else:
            self.set_avail_flags(1)

    def interrupt_after(self, count: int) -> None:
        self.set_used_event((self._last_used + count - 1) & 0xFFFF)

    # Raw access

    def write_descriptor(
        self, index: int, address: int, length: int, flags: int, next: int = 0
    ) -> None:
        """Write entry ``index`` of the descriptor table. Flags: NEXT 1, WRITE 2, INDIRECT 4."""
        struct.pack_into("<QIHH", self._table, 16 * index, address, length, flags, next)

    def read_descriptor(self, index: int) -> tuple[int, int, int, int]:
        """Return address, length, flags and next of entry ``index`` of the descriptor table."""
        address, length, flags, following = struct.unpack_from("<QIHH", self._table, 16 * index)
        return address, length, flags, following

    def write_indirect_table(
        self, entries: Sequence[tuple[int, int, int, int]], address: int | None = None
    ) -> int:
        """Write a table of (address, length, flags, next), and return its guest address."""
        if address is None:
            address = self.arena.allocate(16 * len(entries))
        self.write_bytes(address, b"".join(struct.pack("<QIHH", *entry) for entry in entries))
        return address

    def write_avail_slot(self, slot: int, head: int) -> None:
        """Write ``avail.ring[slot]``."""
        self._avail_words[2 + slot] = head

    def expose(self, head: int) -> None:
        """Make the chain that begins at descriptor ``head`` available, whatever it is."""
        self.write_avail_slot(self._next_avail % self.size, head)
        self._next_avail = (self._next_avail + 1) & 0xFFFF
        self.publish()

    @property
    def avail_idx(self) -> int:
        """``avail.idx`` as it stands in memory."""
        return self._avail_words[1]

    def set_avail_idx(self, idx: int) -> None:
        """Write ``avail.idx``."""
        self._avail_words[1] = idx

    def set_avail_flags(self, flags: int) -> None:
        """Write ``avail.flags``; bit 0 is NO_INTERRUPT."""
        self._avail_words[0] = flags

    def set_used_event(self, idx: int) -> None:
        """Write ``used_event``, which follows the available ring."""
        self._avail_words[2 + self.size] = idx

    @property
    def used_event(self) -> int:
        """``used_event`` as it stands in memory."""
        return self._avail_words[2 + self.size]

    @property
    def used_flags(self) -> int:
        """``used.flags``; bit 0 is NO_NOTIFY."""
        return self._used_words[0]

    @property
    def used_idx(self) -> int:
        """``used.idx``, in one 16-bit load."""
        return self._used_words[1]

    @property
    def avail_event(self) -> int:
        """``avail_event``, which follows the used ring."""
        return self._used_words[2 + 4 * self.size]

    def set_avail_event(self, value: int) -> None:
        """Write ``avail_event``: a canary where the device must not write (SPL-05)."""
        self._used_words[2 + 4 * self.size] = value

    def used_element(self, slot: int) -> tuple[int, int]:
        """Return ``id`` and ``len`` of ``used.ring[slot]``."""
        id_low, id_high, len_low, len_high = self._used_words[2 + 4 * slot : 6 + 4 * slot]
        return id_low | id_high << 16, len_low | len_high << 16

    def driver_owned(self) -> bytes:
        """Return descriptor table and available ring, which no device may write (SPL-07)."""
        return bytes(self._table) + bytes(self._avail_words)

    def _indirect_table(self, segments: Sequence[Segment]) -> int:
        last = len(segments) - 1
        entries = [
            (s.address, s.length, (2 if s.writable else 0) | (i < last), (i + 1) * (i < last))
            for i, s in enumerate(segments)
        ]
        return self.write_indirect_table(entries)
