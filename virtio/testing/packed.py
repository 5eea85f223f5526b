"""The driver's side of a packed virtqueue. VIRTIO 1.4 "Packed Virtqueues"."""

import struct
from collections.abc import Sequence

from virtio.memory import GuestMemory
from virtio.testing.driver import Pending, QueueDriver, QueueFull, RingLayout, Segment, Used


class PackedDriver(QueueDriver):
    """A packed virtqueue as a driver builds it; as in :class:`QueueDriver`.

    Flags of a descriptor: NEXT 1, WRITE 2, INDIRECT 4, AVAIL bit 7, USED bit 15. Event suppression:
    0 notify always, 1 never, 2 at one descriptor (with EVENT_IDX).
    """

    def __init__(
        self,
        memory: GuestMemory,
        size: int,
        *,
        base: int = 0x1000,
        event_idx: bool = False,
        indirect: bool = False,
    ) -> None:
        super().__init__(memory, size, base=base, event_idx=event_idx, indirect=indirect)
        self._ids = list(range(size))
        self._room = size
        self._avail_slot, self._avail_wrap = 0, 1
        self._used_slot, self._used_wrap = 0, 1
        self._held: list[tuple[int, int]] = []
        self._published: list[tuple[int, int]] = []

    # Rings

    def _lay_out(self) -> RingLayout:
        ring = self.arena.allocate(16 * self.size)
        driver = self.arena.allocate(4)
        device = self.arena.allocate(4)
        self._ring = self.memory.view(ring, 16 * self.size)
        self._ring_words = self._ring.cast("H")
        self._driver_event = self.memory.view(driver, 4).cast("H")
        self._device_event = self.memory.view(device, 4).cast("H")
        return RingLayout(self.size, ring, driver, device)

    def _expose(self, pending: Pending, segments: Sequence[Segment], *, indirect: bool) -> None:
        if len(segments) > self._room:
            raise QueueFull(f"{len(segments)} ring entries needed, {self._room} are free")
        identifier = self._ids.pop(0)
        self._room -= len(segments)
        for i, segment in enumerate(segments):
            slot, wrap = self._avail_slot, self._avail_wrap
            flags = (2 if segment.writable else 0) | (4 if indirect else 0)
            flags |= (1 if i < len(segments) - 1 else 0) | self.available_flags(wrap)
            # The head's flags make the whole list available: they come last.
            first_flags = self.flags(slot) if i == 0 else flags
            self.write_descriptor(slot, segment.address, segment.length, identifier, first_flags)
            if i == 0:
                self._held.append((slot, flags))
            pending.entries.append(slot)
            self._published.append((slot, wrap))
            self._avail_slot, self._avail_wrap = self.after(slot, wrap, 1)
        self._pending[identifier] = pending

    def publish(self) -> None:
        for slot, flags in self._held:
            self.set_flags(slot, flags)
        self._held.clear()

    def collect(self) -> list[Used]:
        found = []
        while self.flags(self._used_slot) & 0x8080 == (0x8080 if self._used_wrap else 0):
            if self._room == self.size:
                break
            _, length, identifier, flags = self.read_descriptor(self._used_slot)
            used, pending = self._used(identifier, length if flags & 2 else 0)
            self._ids.append(identifier)
            count = len(pending.entries)
            self._room += count
            self._used_slot, self._used_wrap = self.after(self._used_slot, self._used_wrap, count)
            found.append(used)
        return found

    # Notifications

    def should_kick(self) -> bool:
        published, self._published = self._published, []
        off_wrap, flags = self.device_event
        if flags == 2:
            return (off_wrap & 0x7FFF, off_wrap >> 15) in published
        return flags != 1

    def want_interrupts(self) -> None:
        if self.event_idx:
            self.interrupt_after(1)
        else:
            self.set_driver_event(0, 0)

    def suppress_interrupts(self) -> None:
        self.set_driver_event(0, 1)

    def interrupt_after(self, count: int) -> None:
        slot, wrap = self.after(self._used_slot, self._used_wrap, count - 1)
        self.set_driver_event(slot | wrap << 15, 2)

    # Raw access

    def after(self, slot: int, wrap: int, count: int) -> tuple[int, int]:
        """Return slot and wrap counter ``count`` (at most N) entries further on."""
        slot += count
        return (slot, wrap) if slot < self.size else (slot - self.size, 1 - wrap)

    @staticmethod
    def available_flags(wrap: int) -> int:
        """Return AVAIL and USED as an available descriptor has them in a lap with ``wrap``."""
        return 0x0080 if wrap else 0x8000

    def write_descriptor(
        self, slot: int, address: int, length: int, identifier: int, flags: int
    ) -> None:
        """Write ring entry ``slot``, its flags last and in one store."""
        struct.pack_into("<QIH", self._ring, 16 * slot, address, length, identifier)
        self.set_flags(slot, flags)

    def read_descriptor(self, slot: int) -> tuple[int, int, int, int]:
        """Return address, length, buffer id and flags of ring entry ``slot``."""
        address, length, identifier, flags = struct.unpack_from("<QIHH", self._ring, 16 * slot)
        return address, length, identifier, flags

    def flags(self, slot: int) -> int:
        """Return the flags of ring entry ``slot``, in one load."""
        return self._ring_words[8 * slot + 7]

    def set_flags(self, slot: int, flags: int) -> None:
        """Write the flags of ring entry ``slot``, in one store."""
        self._ring_words[8 * slot + 7] = flags

    def write_indirect_table(
        self, entries: Sequence[tuple[int, int, int, int]], address: int | None = None
    ) -> int:
        """Write a table of (address, length, id, flags), and return its guest address."""
        if address is None:
            address = self.arena.allocate(16 * len(entries))
        self.write_bytes(address, b"".join(struct.pack("<QIHH", *entry) for entry in entries))
        return address

    @property
    def driver_event(self) -> tuple[int, int]:
        """The driver's suppression structure: offset and wrap bit, flags."""
        return self._driver_event[0], self._driver_event[1]

    def set_driver_event(self, off_wrap: int, flags: int) -> None:
        """Write the driver's suppression structure: offset | wrap << 15, flags."""
        self._driver_event[0] = off_wrap
        self._driver_event[1] = flags

    @property
    def device_event(self) -> tuple[int, int]:
        """The device's suppression structure: offset and wrap bit, flags."""
        return self._device_event[0], self._device_event[1]

    def _indirect_table(self, segments: Sequence[Segment]) -> int:
        return self.write_indirect_table(
            [(s.address, s.length, 0, 2 if s.writable else 0) for s in segments]
        )
