"""What the two driver-side queues have in common: buffers, tokens, and what comes back.

This package plays the driver in tests of devices and queues. It is written from VIRTIO 1.4 alone
and imports none of the device side's constants, so that one cannot repeat a mistake of the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from virtio.memory import GuestMemory
from virtio.testing.arena import Arena

POISON = 0xA5
"""What every writable byte holds before the device sees it."""


class RingLayout(NamedTuple):
    """Queue size in entries and the guest-physical addresses of the three areas.

    ``QueueLayout(*driver.layout)`` is the device's form of it.
    """

    size: int
    descriptor_area: int
    driver_area: int
    device_area: int


class Segment(NamedTuple):
    """One buffer of a chain: guest-physical address, length in bytes, device-writable or not."""

    address: int
    length: int
    writable: bool


class Used(NamedTuple):
    """A chain that came back: its token, the length the device told, all its writable bytes.

    Bytes past ``length`` that the device left alone are still :data:`POISON`.
    """

    token: int
    length: int
    data: bytes


class QueueFull(Exception):
    """The ring has no room for the chain; collect first."""


@dataclass(slots=True)
class Pending:
    """A chain that the driver has made, until it is collected."""

    token: int
    segments: Sequence[Segment]
    entries: list[int]
    owned: list[int] = field(default_factory=list)


class QueueDriver:
    """The driver's side of one virtqueue; see :class:`SplitDriver` and :class:`PackedDriver`.

    ``base`` is where the rings and buffers begin in ``memory``; what lies above is the driver's.
    ``event_idx`` and ``indirect`` say what was negotiated. Not thread-safe.
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
        self.memory = memory
        self.size = size
        self.event_idx = event_idx
        self.indirect = indirect
        self.arena = Arena(memory, base)
        self._pending: dict[int, Pending] = {}
        self._tokens = 0
        self.layout = self._lay_out()

    # What every test uses

    def add(
        self,
        readable: Sequence[bytes] = (),
        writable: Sequence[int] = (),
        *,
        indirect: bool = False,
        publish: bool = True,
    ) -> int:
        """Make a chain of buffers available: contents to read, then sizes to write, in bytes.

        Returns the token that :meth:`collect` gives back. With ``indirect`` the chain is one
        descriptor that points to a table. Without ``publish`` the device cannot see it until
        :meth:`publish`. Raises :class:`QueueFull` when the ring has no room.
        """
        segments = [Segment(self._place(data), len(data), False) for data in readable]
        segments += [Segment(self._place(bytes([POISON]) * n), n, True) for n in writable]
        owned = [segment.address for segment in segments]
        try:
            return self.add_segments(segments, indirect=indirect, publish=publish, owned=owned)
        except QueueFull:
            self._release(owned)
            raise

    def add_segments(
        self,
        segments: Sequence[Segment],
        *,
        indirect: bool = False,
        publish: bool = True,
        owned: Sequence[int] = (),
    ) -> int:
        """Make a chain of given segments available, whatever their addresses and order.

        ``owned`` are addresses in :attr:`arena` to be freed when the chain is collected.
        """
        if not segments:
            raise ValueError("a chain has at least one segment")
        pending = Pending(self._tokens, segments, [], list(owned))
        if indirect:
            table = self._indirect_table(segments)
            pending.owned.append(table)
            segments = [Segment(table, 16 * len(segments), False)]
        try:
            self._expose(pending, segments, indirect=indirect)
        except QueueFull:
            self._release(pending.owned[len(owned) :])
            raise
        self._tokens += 1
        if publish:
            self.publish()
        return pending.token

    def publish(self) -> None:
        """Let the device see everything added so far."""
        raise NotImplementedError

    def collect(self) -> list[Used]:
        """Take back every chain that the device has used, in the order it used them.

        Raises :class:`AssertionError` when the device returns what it does not have.
        """
        raise NotImplementedError

    def should_kick(self) -> bool:
        """Tell whether the device wants a notification of what was published since the last call.

        VIRTIO 1.4 "Available Buffer Notification Suppression", "Driver and Device Event
        Suppression".
        """
        raise NotImplementedError

    def want_interrupts(self) -> None:
        """Ask the device to notify; with EVENT_IDX, of the next chain that it uses."""
        raise NotImplementedError

    def suppress_interrupts(self) -> None:
        """Ask the device not to notify; with EVENT_IDX in a split ring, not for 65535 chains."""
        raise NotImplementedError

    def interrupt_after(self, count: int) -> None:
        """Ask the device to notify once it used ``count`` (>= 1) more ring entries (EVENT_IDX)."""
        raise NotImplementedError

    @property
    def in_flight(self) -> int:
        """How many chains have been made and not collected."""
        return len(self._pending)

    # For drivers that misbehave

    def write_bytes(self, address: int, data: bytes) -> None:
        """Write guest memory."""
        self.memory.view(address, len(data))[:] = data

    def read_bytes(self, address: int, length: int) -> bytes:
        """Read guest memory, also across adjacent regions."""
        return b"".join(self.memory.views(address, length))

    # Helpers

    def _lay_out(self) -> RingLayout:
        raise NotImplementedError

    def _indirect_table(self, segments: Sequence[Segment]) -> int:
        raise NotImplementedError

    def _expose(self, pending: Pending, segments: Sequence[Segment], *, indirect: bool) -> None:
        raise NotImplementedError

    def _place(self, data: bytes) -> int:
        address = self.arena.allocate(len(data))
        self.write_bytes(address, data)
        return address

    def _release(self, addresses: Sequence[int]) -> None:
        for address in addresses:
            self.arena.free(address)

    def _used(self, identifier: int, length: int) -> tuple[Used, Pending]:
        assert identifier in self._pending, f"device returned {identifier}, which it does not have"
        pending = self._pending.pop(identifier)
        parts = [self.read_bytes(s.address, s.length) for s in pending.segments if s.writable]
        self._release(pending.owned)
        return Used(pending.token, length, b"".join(parts)), pending
