"""The virtqueue: what its two forms, split and packed, have in common.

VIRTIO 1.4 "Virtqueues". The driver makes chains of descriptors available, the device takes them in
order, and gives each back as used. A queue is not locked: its owner serialises the calls.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

from virtio.chain import DescriptorChain
from virtio.errors import DriverError, InternalError
from virtio.features import (
    VIRTIO_F_IN_ORDER,
    VIRTIO_F_RING_PACKED,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
)
from virtio.fence import make_fence
from virtio.memory import GuestMemory, MemoryAccessError
from virtio.queue_state import QueueLayout as QueueLayout
from virtio.queue_state import QueueState as QueueState
from virtio.queue_state import SavedChain as SavedChain

if sys.byteorder != "little":
    raise ImportError("virtio.virtqueue stores ring fields natively: it needs a little-endian host")

MAX_QUEUE_SIZE: Final = 32768
DESCRIPTOR_BYTES: Final = 16
MAX_TABLE_BYTES: Final = DESCRIPTOR_BYTES << 16
"""How far a 16-bit ``next`` reaches into an indirect table."""
MAX_USED_LENGTH: Final = (1 << 32) - 1
"""A used length has 32 bits: of a chain of 2^32 bytes, one less is told (SPL-34)."""


class Queue:
    """A virtqueue, from the device's side.

    ``Queue(...)`` gives the form that was negotiated: a :class:`~virtio.split.SplitQueue`, or with
    ``VIRTIO_F_RING_PACKED`` a :class:`~virtio.packed.PackedQueue`. ``features`` is the set of
    negotiated feature bits, ``index`` the number of the queue in its device. ``interrupt`` is what
    the transport wants called when the driver must be notified.

    A new queue is at position 0 of its rings, and writes nothing until it is used. When the driver
    breaks the rules of the ring, taking a chain raises :class:`DriverError`; the queue is then
    broken, raises the same again, and writes nothing more until it is reset.

    Raises :class:`DriverError` for a size, alignment or address that is not allowed
    (SPL-02, SPL-03, SPL-04, PKD-02).
    """

    __slots__ = (
        "__weakref__",
        "_breach",
        "_event_idx",
        "_fence",
        "_in_order",
        "_indirect",
        "_mapped",
        "_next_avail",
        "_next_used",
        "_outstanding",
        "_replay",
        "_stopped",
        "_unsignalled",
        "bytes_read",
        "bytes_written",
        "completed",
        "features",
        "index",
        "interrupt",
        "layout",
        "memory",
        "size",
    )

    def __new__(
        cls, memory: GuestMemory, layout: QueueLayout, features: int = 0, *, index: int = 0
    ) -> Queue:
        """Choose the form of the queue, as :class:`pathlib.Path` chooses its flavour."""
        if cls is not Queue:
            return object.__new__(cls)
        # The forms are built on this module, so they cannot be imported before it is complete.
        if features >> VIRTIO_F_RING_PACKED & 1:
            from virtio.packed import PackedQueue

            return object.__new__(PackedQueue)
        from virtio.split import SplitQueue

        return object.__new__(SplitQueue)

    def __init__(
        self, memory: GuestMemory, layout: QueueLayout, features: int = 0, *, index: int = 0
    ) -> None:
        self.memory = memory
        self.layout = layout
        self.size = layout.size
        self.features = features
        self.index = index
        self.interrupt: Callable[[], None] | None = None
        self._event_idx = bool(features >> VIRTIO_RING_F_EVENT_IDX & 1)
        self._indirect = bool(features >> VIRTIO_RING_F_INDIRECT_DESC & 1)
        self._in_order = bool(features >> VIRTIO_F_IN_ORDER & 1)
        self._next_avail = 0
        self._next_used = 0
        self._unsignalled = 0
        self.completed = 0
        self.bytes_read = 0
        self.bytes_written = 0
        # In the order taken; the value is the used length of a chain that waits for its turn.
        self._outstanding: dict[DescriptorChain, int | None] = {}
        self._replay: list[DescriptorChain] = []
        self._breach: tuple[str, str, int | None] | None = None
        self._stopped = False
        self._fence = make_fence()
        self._mapped: list[memoryview] = []
        self._map_rings()

    # Taking what the driver made available

    def pop(self) -> DescriptorChain | None:
        """Take the next available chain; None when there is none.

        Raises :class:`DriverError` when the ring or the chain breaks the rules.
        """
        if self._stopped:
            self._refuse()
            return None
        if self._replay:
            return self._replay.pop(0)
        try:
            chain = self._take()
        except DriverError:
            self._stopped = True
            raise
        if chain is not None:
            self._outstanding[chain] = None
        return chain

    def pop_many(self, limit: int) -> list[DescriptorChain]:
        """Take up to ``limit`` available chains: the bound on one round of work (SPL-23).

        Raises :class:`DriverError` as :meth:`pop` does, but hands out the good chains before the
        bad one first, so that they can be completed.
        """
        if self._stopped:
            self._refuse()
            return []
        chains, self._replay = self._replay[:limit], self._replay[limit:]
        outstanding = self._outstanding
        try:
            while len(chains) < limit and (chain := self._take()) is not None:
                outstanding[chain] = None
                chains.append(chain)
        except DriverError:
            if not chains:
                self._stopped = True
                raise
        return chains

    def iter(self) -> Iterator[DescriptorChain]:
        """Take chains until none is available, those that become available meanwhile included.

        A driver can keep this going as long as it likes; :meth:`pop_many` bounds the work.
        """
        return iter(self.pop, None)

    __iter__ = iter

    # Giving it back

    def add_used(self, chain: DescriptorChain, length: int) -> None:
        """Give ``chain`` back to the driver with ``length`` bytes written, without notifying it.

        The bytes are those from the first writable one on (SPL-34). With ``VIRTIO_F_IN_ORDER`` the
        driver sees it when all chains taken before it have been given back. Does nothing once the
        queue is broken or reset. Raises :class:`InternalError` for a chain already given back, or
        for a length that exceeds the writable part.
        """
        self.add_used_many(((chain, length),))

    def add_used_many(self, completions: Iterable[tuple[DescriptorChain, int]]) -> None:
        """Give several chains back, so that the driver sees all of them at once, or none."""
        if self._stopped:
            return
        outstanding = self._outstanding
        finished: list[tuple[DescriptorChain, int]] = []
        for chain, length in completions:
            if outstanding.get(chain, 0) is not None:
                raise InternalError(f"{chain!r} is given back, but the device does not have it")
            if not 0 <= length <= chain.room:
                raise InternalError(f"{chain!r}: {length} bytes written, room for {chain.room}")
            chain.readable, chain.writable = [], []
            self.completed += 1
            self.bytes_read += chain.readable_length
            self.bytes_written += length
            if length > MAX_USED_LENGTH:
                length = MAX_USED_LENGTH
            if self._in_order:
                outstanding[chain] = length
            else:
                del outstanding[chain]
                finished.append((chain, length))
        if self._in_order:
            finished = self._in_turn()
        if finished:
            self._publish(finished)

    # Notifications

    def needs_notification(self) -> bool:
        """Tell whether the driver wants to hear of the chains given back since the last call."""
        count, self._unsignalled = self._unsignalled, 0
        if not count:
            return False
        self._fence()
        return self._driver_wants_notification(count)

    def notify(self) -> None:
        """Call ``interrupt`` if the driver wants to hear of what was given back."""
        if self.needs_notification() and self.interrupt is not None:
            self.interrupt()

    def enable_notification(self) -> bool:
        """Ask the driver for a notification of the next chain that it makes available.

        Returns True when chains are available already: take those first, for the driver may not
        notify of them (SPL-44).
        """
        if self._stopped:
            return False
        self._request_notification()
        self._fence()
        return self.has_available()

    def has_available(self) -> bool:
        """Tell whether there are chains that the driver made available and nobody took yet."""
        return not self._stopped and (bool(self._replay) or self._has_available())

    def disable_notification(self) -> None:
        """Tell the driver that it need not notify; a hint only."""
        if not self._stopped:
            self._decline_notification()

    # Life and death

    def reset(self) -> None:
        """End the queue: no access to guest memory any more, by it or by its chains.

        Chains still out lose their views, and giving them back does nothing.
        """
        self._stopped = True
        self._breach = None
        self._unsignalled = 0
        for chain in self._outstanding:
            chain.release_views()
        self._outstanding.clear()
        self._replay.clear()
        for view in self._mapped:
            view.release()
        self._mapped.clear()

    def state(self) -> QueueState:
        """Return what :meth:`from_state` needs to continue, over the same content of memory."""
        saved = tuple(
            SavedChain(
                tuple(chain.descriptors), chain.head_index, chain.buffer_id, chain.slots, length
            )
            for chain, length in self._outstanding.items()
        )
        return QueueState(
            self.index,
            self.layout,
            self.features,
            self._next_avail,
            self._next_used,
            self._unsignalled,
            saved,
            self._breach if self._stopped else None,
        )

    @classmethod
    def from_state(cls, memory: GuestMemory, state: QueueState) -> Queue:
        """Return a queue that continues where ``state`` was taken.

        It first hands out again the chains that the device had not given back. After it, call
        :meth:`enable_notification`, and serve what is available (SPL-46).
        """
        queue = cls(memory, state.layout, state.features, index=state.index)
        queue._next_avail = state.next_avail
        queue._next_used = state.next_used
        queue._unsignalled = state.unsignalled
        queue._breach = state.breach
        queue._stopped = state.breach is not None
        for saved in state.outstanding:
            chain = DescriptorChain(
                queue, saved.descriptors, saved.head_index, saved.buffer_id, saved.slots
            )
            queue._outstanding[chain] = saved.used_length
            if saved.used_length is None:
                queue._replay.append(chain)
        return queue

    # What the two forms do each in their own way

    def _map_rings(self) -> None:
        """Check the geometry and make the views of the three areas."""
        raise NotImplementedError

    def _take(self) -> DescriptorChain | None:
        """Return the next chain and move on; stay where it is if it is bad."""
        raise NotImplementedError

    def _has_available(self) -> bool:
        raise NotImplementedError

    def _publish(self, finished: list[tuple[DescriptorChain, int]]) -> None:
        """Write the used entries, and show all of them to the driver with one last store."""
        raise NotImplementedError

    def _driver_wants_notification(self, count: int) -> bool:
        """Tell whether the driver wants to hear of the last ``count`` ring entries used."""
        raise NotImplementedError

    def _request_notification(self) -> None:
        raise NotImplementedError

    def _decline_notification(self) -> None:
        raise NotImplementedError

    # Helpers

    def _part(self, name: str, address: int, length: int, alignment: int) -> memoryview:
        """Return the bytes of one area of the queue, after checking where it lies."""
        if address % alignment:
            raise self._error(
                "SPL-03", f"{name} at {address:#x} is not aligned to {alignment} bytes"
            )
        try:
            view = self.memory.view(address, length)
        except MemoryAccessError as error:
            raise self._error("SPL-04", f"{name}: {error}") from None
        self._mapped.append(view)
        return view

    def _words(self, part: memoryview, code: Literal["H", "I"]) -> memoryview:
        """Return ``part`` as 16-bit or 32-bit words, each of which is loaded and stored at once.

        ``struct.pack_into`` would not do: it zeroes its target first, and a driver polling an index
        or a flag would see that zero (SPL-33).
        """
        words = part.cast(code)
        self._mapped.append(words)
        return words

    def _indirect_table(
        self, item: str, address: int, length: int, head: int
    ) -> memoryview | bytes:
        """Return an indirect table: a view, or a copy where it crosses memory regions.

        ``item`` is what a table of bad length or outside guest RAM breaches.
        """
        if not length or length % DESCRIPTOR_BYTES:
            raise self._error(item, f"indirect table of {length} bytes, not 16 each", head)
        try:
            return self.memory.view(address, length)
        except MemoryAccessError:
            return self._table_across_regions(item, address, length, head)

    def _table_across_regions(self, item: str, address: int, length: int, head: int) -> bytes:
        try:
            self.memory.views(address, length)
            return b"".join(self.memory.views(address, min(length, MAX_TABLE_BYTES)))
        except MemoryAccessError as error:
            raise self._error(item, f"indirect table: {error}", head) from None

    def _in_turn(self) -> list[tuple[DescriptorChain, int]]:
        """Remove and return the finished chains that no unfinished one precedes (SPL-37)."""
        ready: list[tuple[DescriptorChain, int]] = []
        for chain, length in self._outstanding.items():
            if length is None:
                break
            ready.append((chain, length))
        for chain, _ in ready:
            del self._outstanding[chain]
        return ready

    def _refuse(self) -> None:
        """Raise again what broke the queue; a queue that was reset just has no chains."""
        if self._breach is not None:
            item, message, chain = self._breach
            raise DriverError(item, message, queue=self.index, chain=chain)

    def _error(self, item: str, message: str, chain: int | None = None) -> DriverError:
        """Return the error to raise, and remember it as what broke the queue."""
        self._breach = item, message, chain
        return DriverError(item, message, queue=self.index, chain=chain)
