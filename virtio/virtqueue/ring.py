"""A ring: it takes chains from guest memory, gives them back, and knows who wants to hear of it.

VIRTIO 1.4 "Virtqueues". A :class:`~virtio.virtqueue.queue.Queue` stands on one. There are three:
split, packed, and a native one that serves in C what is ordinary and leaves the rest to a twin in
Python.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from virtio.errors import DriverError
from virtio.features import VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC
from virtio.memory import MemoryAccessError
from virtio.virtqueue.fence import make_fence
from virtio.virtqueue.state import QueueLayout

if TYPE_CHECKING:
    from virtio.virtqueue.batch import BatchOwner, ChainBatch
    from virtio.virtqueue.chain import DescriptorChain
    from virtio.virtqueue.watched import RingWatcher

MAX_QUEUE_SIZE: Final = 32768
DESCRIPTOR_BYTES: Final = 16
MAX_TABLE_BYTES: Final = DESCRIPTOR_BYTES << 16
"""How far a 16-bit ``next`` reaches into an indirect table."""

BULK: Final = 8
"""From how many used entries on it is faster to write them in columns than one by one."""


IDLE, LEFT, TELL, MORE, WRONG = range(5)
"""Why native code stopped serving a queue: there is nothing to do; the next chain is not ordinary,
and is left to Python; the driver has to be told of what is done; others shall have a turn; or what
it was asked for is not possible."""


class Ring(ABC):
    """One form of the rings in guest memory, in plain Python.

    ``owner`` is the queue whose chains these are, ``layout`` where they lie. ``next_avail`` and
    ``next_used`` are the positions: modulo 65536 in the split form; modulo twice the queue size in
    the packed form. ``unsignalled`` counts the entries given back since :meth:`wants_notification`
    last looked, and ``active_at`` is when the driver was served last, in nanoseconds of
    ``CLOCK_MONOTONIC``, if anybody wants to know. ``completed``, ``bytes_read`` and
    ``bytes_written`` count chains given back, the bytes that those offered to be read, and the
    bytes written to them.

    Raises :class:`DriverError` for a size, alignment or address that no driver may choose
    (``SPL-02``, ``SPL-03``, ``SPL-04``, ``PKD-02``).
    """

    __slots__ = (
        "active_at",
        "areas",
        "bytes_read",
        "bytes_written",
        "completed",
        "event_idx",
        "fence",
        "indirect",
        "layout",
        "next_avail",
        "next_used",
        "owner",
        "size",
        "unsignalled",
        "watcher",
        "window",
    )

    def __init__(self, owner: BatchOwner, layout: QueueLayout, features: int) -> None:
        self.owner = owner
        self.window = owner.window
        self.layout = layout
        self.size = layout.size
        self.event_idx = bool(features >> VIRTIO_RING_F_EVENT_IDX & 1)
        self.indirect = bool(features >> VIRTIO_RING_F_INDIRECT_DESC & 1)
        self.fence = make_fence()
        self.next_avail = self.next_used = self.unsignalled = 0
        self.completed = self.bytes_read = self.bytes_written = 0
        self.active_at = 0
        self.areas: list[memoryview] = []
        self.watcher: RingWatcher | None = None  # see virtio/virtqueue/watched.py

    @abstractmethod
    def take(self) -> DescriptorChain | None:
        """Return the next chain and move on; None when there is none.

        Raises :class:`DriverError`, and stays where it is, when ring or chain breaks the rules.
        """

    @abstractmethod
    def take_batch(self, limit: int, header_bytes: int = -1) -> ChainBatch:
        """Take up to ``limit`` chains; empty when there is none.

        A batch holds plain chains, of one descriptor inside the window each, which are not made
        yet; or else any others. ``header_bytes`` is a hint for native code. Raises
        :class:`DriverError` as :meth:`take` does, but hands out the good chains before a bad one.
        """

    @abstractmethod
    def has_available(self) -> bool:
        """Tell whether the driver made a chain available that was not taken yet."""

    @abstractmethod
    def give_back(
        self, ids: Sequence[int], lengths: Sequence[int], slots: Sequence[int], bytes_read: int
    ) -> None:
        """Write the used entries, show all of them to the driver with one last store, and count.

        ``bytes_read`` is how many bytes those chains offered.
        """

    @abstractmethod
    def wants_notification(self) -> bool:
        """Tell whether the driver wants to hear of the entries given back since the last call."""

    @abstractmethod
    def request_notification(self) -> bool:
        """Ask for a notification of the next chain; tells whether one is available already."""

    @abstractmethod
    def decline_notification(self) -> None:
        """Tell the driver that no notification is needed; a hint only."""

    def give_back_batch(self, batch: ChainBatch, lengths: Sequence[int | None]) -> bool:
        """Give a batch back whole; returns False, having done nothing, where lengths do not fit."""
        known = batch.fitting(lengths)
        if known is None:
            return False
        self.give_back(batch.buffer_ids, known, (1,) * len(known), batch.readable_bytes)
        return True

    # For the forms

    def _area(self, name: str, address: int, length: int, alignment: int) -> memoryview:
        """Return the bytes of one area of the rings, after checking where it lies."""
        if address % alignment:
            raise self._breach(
                "SPL-03", f"{name} at {address:#x} must be aligned to {alignment} bytes"
            )
        try:
            view = self.window.area(address, length)
        except MemoryAccessError as error:
            raise self._breach("SPL-04", f"{name}: {error}") from None
        self.areas.append(view)
        return view

    def _indirect_table(
        self, item: str, address: int, length: int, head: int
    ) -> memoryview | bytes:
        """Return an indirect table: a view, or a copy where it crosses memory regions.

        ``item`` is what a table of bad length or outside guest RAM breaches.
        """
        if not length or length % DESCRIPTOR_BYTES:
            raise self._breach(item, f"indirect table of {length} bytes, not 16 each", head)
        try:
            views = self.window.views(address, length)
        except MemoryAccessError as error:
            raise self._breach(item, f"indirect table: {error}", head) from None
        if len(views) == 1:
            return views[0]
        return b"".join(self.window.views(address, min(length, MAX_TABLE_BYTES)))

    def _breach(self, item: str, message: str, chain: int | None = None) -> DriverError:
        return DriverError(item, message, queue=self.owner.index, chain=chain)
