"""The virtqueue: what its two forms, split and packed, have in common.

VIRTIO 1.4 "Virtqueues". The driver makes chains of descriptors available, the device takes them in
order, and gives each back as used. A queue is not locked: its owner serialises the calls.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic_ns
from typing import TYPE_CHECKING, Final, cast

from virtio import engine
from virtio.engine import LEFT, TELL, WRONG
from virtio.errors import DriverError, InternalError
from virtio.features import (
    VIRTIO_F_IN_ORDER,
    VIRTIO_F_RING_PACKED,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
)
from virtio.memory import GuestMemory
from virtio.virtqueue.batch import ChainBatch
from virtio.virtqueue.chain import DescriptorChain
from virtio.virtqueue.fence import make_fence
from virtio.virtqueue.state import QueueLayout as QueueLayout
from virtio.virtqueue.state import QueueState as QueueState
from virtio.virtqueue.state import SavedChain as SavedChain
from virtio.virtqueue.state import check_queue_state
from virtio.virtqueue.window import DESCRIPTOR_BYTES as DESCRIPTOR_BYTES
from virtio.virtqueue.window import QueueMemory

if TYPE_CHECKING:
    from virtio.native.ring import DataPath, NativeQueue

if sys.byteorder != "little":
    raise ImportError(
        "virtio.virtqueue.queue stores ring fields natively: it needs a little-endian host"
    )

MAX_QUEUE_SIZE: Final = 32768
MAX_USED_LENGTH: Final = (1 << 32) - 1
"""A used length has 32 bits: of a chain of 2^32 bytes, one less is told (SPL-34)."""

SHORT_WAITS: Final = 4
"""How many times the polling time may have passed since the last chain for polling to seem worth
while."""

BULK: Final = 8
"""From how many used entries on it is faster to write them in columns than one by one."""


class Queue(QueueMemory):
    """A virtqueue, from the device's side.

    ``Queue(...)`` gives the form that was negotiated: a :class:`SplitQueue`, or with
    ``VIRTIO_F_RING_PACKED`` a :class:`PackedQueue`. ``features`` is the set of negotiated feature
    bits, ``index`` the number of the queue in its device. ``interrupt`` is what the transport wants
    called when the driver must be notified, ``poll_ns`` for how long it allows the device to wait
    for the driver without sleeping.

    A new queue is at position 0 of its rings, and writes nothing until it is used. When the driver
    breaks the rules of the ring, taking a chain raises :class:`DriverError`; the queue is then
    broken, raises the same again, and writes nothing more until it is reset.

    Raises :class:`DriverError` for a size, alignment or address that is not allowed
    (SPL-02, SPL-03, SPL-04, PKD-02).
    """

    __slots__ = (
        "__weakref__",
        "_active_at",
        "_engine",
        "_event_idx",
        "_fence",
        "_in_order",
        "_indirect",
        "_lean",
        "_native",
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
        "interrupt",
        "layout",
        "poll_ns",
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
            from virtio.virtqueue.packed import PackedQueue

            return object.__new__(PackedQueue)
        from virtio.virtqueue.split import SplitQueue

        return object.__new__(SplitQueue)

    def __init__(
        self, memory: GuestMemory, layout: QueueLayout, features: int = 0, *, index: int = 0
    ) -> None:
        super().__init__(memory, index)
        self.layout = layout
        self.size = layout.size
        self.features = features
        self.interrupt: Callable[[], None] | None = None
        self.poll_ns = 0
        self._active_at = 0
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
        # The last batch, while none of its chains has been made: it is out as a whole.
        self._lean: ChainBatch | None = None
        self._stopped = False
        self._engine = engine.native()
        self._native: NativeQueue | None = None
        self._fence = make_fence()
        self._map_rings()

    # Taking what the driver made available

    def pop(self) -> DescriptorChain | None:
        """Take the next available chain; None when there is none.

        Raises :class:`DriverError` when the ring or the chain breaks the rules.
        """
        if self._stopped:
            self._refuse()
            return None
        if self._lean is not None:
            self._spell_out()
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
        if self._lean is not None:
            self._spell_out()
        chains, self._replay = self._replay[:limit], self._replay[limit:]
        native, end = self._native_side(), LEFT
        if native is None:
            chains += self._lean_batch(limit - len(chains))
        elif len(chains) < limit:
            batch, end = native.turn((), 0, limit - len(chains))
            if batch.size:
                self._lean = batch
                chains += batch.make_chains()
        if end == LEFT:
            self._take_others(chains, limit)
        return chains

    def _take_others(self, chains: list[DescriptorChain], limit: int) -> None:
        """Add chains of any kind up to the limit; good ones come before the error of a bad one."""
        try:
            while len(chains) < limit and (chain := self._take()) is not None:
                self._outstanding[chain] = None
                chains.append(chain)
        except DriverError:
            if not chains:
                self._stopped = True
                raise

    def exchange(
        self,
        batch: ChainBatch,
        lengths: Sequence[int | None],
        limit: int,
        *,
        wait_ns: int = 0,
        header_bytes: int = 0,
    ) -> ChainBatch:
        """Give a batch back, notify the driver if it asks, and take up to ``limit`` others.

        That is :meth:`ChainBatch.complete` and :meth:`pop_batch`, mostly in one call of native
        code. If there are no others it waits for them as :meth:`wait_available` does. With
        ``header_bytes`` native code looks for frames with headers of that size, too.
        """
        native, end = self._native, WRONG
        if native is not None and native.last is batch and len(lengths) == native.last.size:
            ordinary = self._lean is batch and not self._in_order  # as nearly always
            if ordinary or self._goes_back_whole(batch, lengths):
                entries = self._unsignalled
                others, end = native.turn(lengths, entries, limit, wait_ns, header_bytes)
        if native is None or end == WRONG:
            batch.complete(lengths)
            native = None if self._stopped else self._native_side()
            if native is None or self._replay:
                waited = self._stopped or self.has_available() or self.wait_available(wait_ns)
                return self.pop_batch(limit) if waited else ChainBatch(self)
            self._spell_out()
            others, end = native.turn((), 0, limit, wait_ns, header_bytes)
        self._lean, self._unsignalled = None, 0
        if end == TELL:
            if self.interrupt is not None:
                self.interrupt()
            others, end = native.turn((), 0, limit, wait_ns, header_bytes)
        if others.size:
            self._lean = others
        elif end == LEFT:
            chains: list[DescriptorChain] = []
            self._take_others(chains, limit)
            return ChainBatch(self, chains)
        return others

    def _goes_back_whole(self, batch: ChainBatch, lengths: Sequence[int | None]) -> bool:
        """Tell whether native code may give a whole batch back; its chains, if made, are let go."""
        outstanding = self._outstanding
        if self._lean is batch:
            return not outstanding
        if not lengths or self._stopped or self._lean is not None or self._in_order:
            return False
        if None in lengths:
            return False
        known = cast(Sequence[int], lengths)
        if max(known) > MAX_USED_LENGTH:
            return False
        for chain, length in zip(batch.make_chains(), known, strict=True):
            self._let_go(chain, length)
            del outstanding[chain]
        return True

    def pop_batch(self, limit: int) -> ChainBatch:
        """Take up to ``limit`` available chains as a batch: the same, for a fraction of the cost.

        A batch may be shorter than what is available: chains of one descriptor and others do not
        come in the same batch. It is empty only when no chain is available. Raises
        :class:`DriverError` as :meth:`pop_many` does.
        """
        if self._stopped:
            self._refuse()
            return ChainBatch(self)
        self._spell_out()
        if not self.has_available():
            return ChainBatch(self)
        if self._replay:
            return ChainBatch(self, self.pop_many(limit))
        if batch := self._lean_batch(limit):
            return batch
        chains: list[DescriptorChain] = []
        self._take_others(chains, limit)
        return ChainBatch(self, chains)

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
        if self._stopped:
            return
        self._settle(chain, length)
        if self._in_order:
            self._publish_in_turn()
        else:
            del self._outstanding[chain]
            told = length if length < MAX_USED_LENGTH else MAX_USED_LENGTH
            self._publish((chain.buffer_id,), (told,), (chain.slots,))

    def add_used_many(self, completions: Iterable[tuple[DescriptorChain, int]]) -> None:
        """Give several chains back, so that the driver sees all of them at once, or none."""
        if self._stopped:
            return
        outstanding, settle = self._outstanding, self._settle
        ids: list[int] = []
        lengths: list[int] = []
        slots: list[int] = []
        for chain, length in completions:
            settle(chain, length)
            if not self._in_order:
                del outstanding[chain]
                ids.append(chain.buffer_id)
                lengths.append(length if length < MAX_USED_LENGTH else MAX_USED_LENGTH)
                slots.append(chain.slots)
        if self._in_order:
            self._publish_in_turn()
        elif ids:
            self._publish(ids, lengths, slots)

    def add_used_batch(self, batch: ChainBatch, lengths: Sequence[int | None]) -> None:
        """Give the chains of a batch back, all at once; ``None`` leaves a chain out.

        Raises :class:`InternalError` as :meth:`add_used` does, and ``ValueError`` unless there is
        one length for each chain.
        """
        if self._stopped or not (batch or lengths):
            return
        if len(lengths) != len(batch):
            raise ValueError(f"{len(lengths)} lengths for a batch of {len(batch)} chains")
        if self._native is not None:
            self._native.count()
        waits = self._in_order and bool(self._outstanding)
        if self._lean is batch and not waits and batch.give_back(lengths):
            self._lean = None
        else:
            pairs = zip(batch, lengths, strict=True)
            self.add_used_many([(chain, done) for chain, done in pairs if done is not None])

    def serve_natively(self, path: DataPath, limit: int, wait_ns: int = 0) -> tuple[int, int]:
        """Have ``path`` serve up to ``limit`` chains without Python, from ring to disk and back.

        Returns how many it did, and why it stopped: ``IDLE``, ``LEFT``, ``TELL`` or ``MORE`` of
        :mod:`virtio.engine`. The driver is not notified. With ``wait_ns`` it waits so long for each
        chain, and in all for eight times that.
        """
        native = None if self._stopped else self._native_side()
        if native is None:
            return 0, LEFT
        self._spell_out()
        if self._replay or (self._in_order and self._outstanding):
            return 0, LEFT
        return native.serve(path, limit, wait_ns)

    # Notifications

    def needs_notification(self) -> bool:
        """Tell whether the driver wants to hear of the chains given back since the last call."""
        count, self._unsignalled = self._unsignalled, 0
        if not count:
            return False
        self.note_activity()
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

    def patience(self) -> int:
        """Return for how many nanoseconds it pays to wait for the next chain on the processor.

        That is ``poll_ns`` when something was given back a short time ago, and else 0.
        """
        paid = self.poll_ns and monotonic_ns() - self._active_at < SHORT_WAITS * self.poll_ns
        return self.poll_ns if paid else 0

    def note_activity(self) -> None:
        """Remember that the driver was served just now, for :meth:`patience`."""
        if self.poll_ns:
            self._active_at = monotonic_ns()

    def wait_available(self, wait_ns: int) -> bool:
        """Wait for a chain on the processor, others' Python running meanwhile; native code only."""
        native = self._native_side() if wait_ns and not self._stopped else None
        return native is not None and native.wait_available(wait_ns)

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
        self._lean = None
        if self._native is not None:
            self._native.close()
            self._native = None
        self._unsignalled = 0
        for chain in self._outstanding:
            chain.release_views()
        self._outstanding.clear()
        self._replay.clear()
        self._unmap()

    def state(self) -> QueueState:
        """Return what :meth:`from_state` needs to continue, over the same content of memory."""
        self._spell_out()
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
        :meth:`enable_notification`, and serve what is available (SPL-46). Raises
        :class:`ConfigurationError` for a state that no queue can have been in.
        """
        check_queue_state(state)
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
            chain._out = saved.used_length is None
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

    def _take_plain(self, batch: ChainBatch, limit: int) -> bool:
        """Add the next chains to the batch as long as they are plain; tell whether there were any.

        A plain chain is one descriptor inside the window. Whatever else comes next, broken rings
        included, is left to :meth:`_take`. The fast path of "1 batch" in ``tests.perf.queues``.
        """
        raise NotImplementedError

    def _has_available(self) -> bool:
        raise NotImplementedError

    def _publish(self, ids: Sequence[int], lengths: Sequence[int], slots: Sequence[int]) -> None:
        """Write the used entries, and show all of them to the driver with one last store."""
        raise NotImplementedError

    def _driver_wants_notification(self, count: int) -> bool:
        """Tell whether the driver wants to hear of the last ``count`` ring entries used."""
        raise NotImplementedError

    def _request_notification(self) -> None:
        raise NotImplementedError

    def _decline_notification(self) -> None:
        raise NotImplementedError

    # Batches

    def _native_side(self) -> NativeQueue | None:
        """Return the rings as native code sees them, opened at first use; None for Python alone."""
        if self._native is None and self._engine is not None:
            self._native = self._engine.NativeQueue(
                self,
                self._areas,
                packed=bool(self.features >> VIRTIO_F_RING_PACKED & 1),
                indirect=self._indirect,
                event_idx=self._event_idx,
                in_order=self._in_order,
            )
        return self._native

    def _lean_batch(self, limit: int) -> ChainBatch:
        """Take up to ``limit`` ordinary chains as a batch that is out as a whole.

        In Python alone only plain ones are ordinary.
        """
        native = self._native_side()
        if native is not None:
            batch: ChainBatch = native.take_batch(limit)
        else:
            batch = ChainBatch(self)
            while len(batch) < limit and self._take_plain(batch, limit - len(batch)):
                pass
        if batch:
            self._lean = batch
        return batch

    def _spell_out(self) -> None:
        """Make the chains of the lean batch, before others are taken."""
        if self._lean is not None:
            self._lean.make_chains()

    def _take_apart(self, chains: list[DescriptorChain]) -> None:
        """Let the chains of the lean batch be out one by one."""
        self._lean = None
        self._outstanding.update(dict.fromkeys(chains))

    def _publish_batch(self, batch: ChainBatch, lengths: Sequence[int]) -> None:
        """Give a lean batch back whole, its lengths being checked."""
        self.completed += len(batch)
        self.bytes_read += batch.readable_bytes
        self.bytes_written += sum(lengths)
        self._publish(batch.buffer_ids, lengths, (1,) * len(batch))

    # Giving back

    def _settle(self, chain: DescriptorChain, length: int) -> None:
        """Let the device have a chain no more, and count it."""
        self._let_go(chain, length)
        self.completed += 1
        self.bytes_read += chain.readable_length
        self.bytes_written += length
        if self._in_order:
            self._outstanding[chain] = length

    def _let_go(self, chain: DescriptorChain, length: int) -> None:
        """Check that a chain may go back with this length; from now on it has no views."""
        if not chain._out or chain._queue is not self:
            raise InternalError(f"{chain!r} is given back, but the device does not have it")
        if not 0 <= length <= chain.room:
            raise InternalError(f"{chain!r}: {length} bytes written, room for {chain.room}")
        chain._out = False
        chain._readable = chain._writable = chain._status = None

    def _publish_in_turn(self) -> None:
        """Publish and forget the finished chains that no unfinished one precedes (SPL-37)."""
        ready: list[tuple[DescriptorChain, int]] = []
        for chain, length in self._outstanding.items():
            if length is None:
                break
            ready.append((chain, min(length, MAX_USED_LENGTH)))
        for chain, _ in ready:
            del self._outstanding[chain]
        if ready:
            chains, lengths = zip(*ready, strict=True)
            self._publish(
                [chain.buffer_id for chain in chains], lengths, [chain.slots for chain in chains]
            )
