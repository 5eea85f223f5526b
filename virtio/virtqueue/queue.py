"""The virtqueue: chains taken in order from a ring, outstanding at the device, and given back.

VIRTIO 1.4 "Virtqueues". The driver makes chains of descriptors available, the device takes them in
order, and gives each back as used. A queue is not locked: its owner serialises the calls.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic_ns
from typing import TYPE_CHECKING, Final, cast

from virtio import engine
from virtio.errors import DriverError, InternalError
from virtio.features import VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED
from virtio.memory import GuestMemory
from virtio.virtqueue.batch import ChainBatch
from virtio.virtqueue.chain import DescriptorChain
from virtio.virtqueue.outstanding import MAX_USED_LENGTH, Outstanding
from virtio.virtqueue.packed import PackedRing
from virtio.virtqueue.ring import LEFT, TELL, WRONG, Ring
from virtio.virtqueue.split import SplitRing
from virtio.virtqueue.state import QueueLayout, QueueState, SavedChain, check_queue_state
from virtio.virtqueue.window import Window

if TYPE_CHECKING:
    from virtio.native.data_path import DataPath
    from virtio.native.ring import NativeRing
    from virtio.virtqueue.watched import RingWatcher

if sys.byteorder != "little":
    raise ImportError("virtio.virtqueue stores ring fields natively: it needs a little-endian host")

SHORT_WAITS: Final = 4
"""How many times the polling time may have passed since the last chain for polling to seem worth
while."""


class Queue:
    """A virtqueue, from the device's side.

    ``features`` is the set of negotiated feature bits, which tells the form of the rings: split, or
    with ``VIRTIO_F_RING_PACKED`` packed. ``index`` is the number of the queue in its device.
    ``interrupt`` is what the transport wants called when the driver must be notified, ``poll_ns``
    for how long it allows the device to wait for the driver without sleeping.

    A new queue is at position 0 of its rings, and writes nothing until it is used. When the driver
    breaks the rules of the ring, taking a chain raises :class:`DriverError`; the queue is then
    broken, raises the same again, and writes nothing more until it is reset.

    Raises :class:`DriverError` for a size, alignment or address that no driver may choose
    (``SPL-02``, ``SPL-03``, ``SPL-04``, ``PKD-02``).

    >>> from virtio.testing import SplitDriver, flat_memory
    >>> memory = flat_memory((0, 1 << 20))
    >>> driver = SplitDriver(memory, 16)
    >>> queue = Queue(memory, QueueLayout(*driver.layout))
    >>> token = driver.add([b"request"], [512])
    >>> for chain in queue:
    ...     queue.add_used(chain, chain.write(chain.read(7).upper()))
    >>> [used.data[:7] for used in driver.collect()]
    [b'REQUEST']
    """

    __slots__ = (
        "__weakref__",
        "_breach",
        "_in_order",
        "_native",
        "_nothing",
        "_outstanding",
        "_replay",
        "_ring",
        "_server",
        "_stopped",
        "features",
        "index",
        "interrupt",
        "layout",
        "poll_ns",
        "size",
        "window",
    )

    def __init__(
        self, memory: GuestMemory, layout: QueueLayout, features: int = 0, *, index: int = 0
    ) -> None:
        self.index = index
        self.layout = layout
        self.size = layout.size
        self.features = features
        self.interrupt: Callable[[], None] | None = None
        self.poll_ns = 0
        self.window = Window(memory)
        self._in_order = bool(features >> VIRTIO_F_IN_ORDER & 1)
        self._outstanding = Outstanding()
        self._replay: list[DescriptorChain] = []
        self._stopped = False
        self._breach: DriverError | None = None
        form = PackedRing if features >> VIRTIO_F_RING_PACKED & 1 else SplitRing
        self._ring: Ring = form(self, layout, features)
        native = engine.native()
        self._native: NativeRing | None = (
            None if native is None else native.NativeRing(self._ring, features)
        )
        self._nothing = ChainBatch(self, [])
        self._server: Ring | NativeRing = self._native or self._ring

    # Taking what the driver made available

    def pop(self) -> DescriptorChain | None:
        """Take the next available chain; None when there is none.

        Raises :class:`DriverError` when the ring or the chain breaks the rules.
        """
        if self._stopped:
            self._refuse()
            return None
        while self._replay:
            if (again := self._replay.pop(0)).out:  # else it was given back after all
                return again
        try:
            chain = self._ring.take()
        except DriverError as error:
            self._break(error)
            raise
        if chain is not None:
            self._outstanding[chain] = None
        return chain

    def pop_many(self, limit: int) -> list[DescriptorChain]:
        """Take up to ``limit`` available chains: the bound on one round of work (``SPL-23``).

        Raises :class:`DriverError` as :meth:`pop` does, but hands out the good chains before the
        bad one first, so that they can be completed.
        """
        if self._stopped:
            self._refuse()
            return []
        self._replay = [one for one in self._replay if one.out]
        chains, self._replay = self._replay[:limit], self._replay[limit:]
        try:
            while len(chains) < limit and (batch := self._server.take_batch(limit - len(chains))):
                self._hand_over(batch)
                chains += batch.make_chains()
        except DriverError as error:
            if not chains:
                self._break(error)
                raise
        return chains

    def pop_batch(self, limit: int, *, header_bytes: int = -1) -> ChainBatch:
        """Take up to ``limit`` available chains as a batch: the same, for a fraction of the cost.

        A batch may be shorter than what is available: chains of one descriptor and others do not
        come in the same batch. It is empty only when no chain is available. ``header_bytes`` is for
        what will be exchanged: native code then looks for chains of any shape, and with more than 0
        for requests with headers of that size. Raises :class:`DriverError` as
        :meth:`pop_many` does.
        """
        if self._stopped:
            self._refuse()
            return self._nothing
        if self._replay:
            return ChainBatch(self, self.pop_many(limit))
        try:
            batch = self._server.take_batch(limit, header_bytes)
        except DriverError as error:
            self._break(error)
            raise
        if batch.size:
            self._hand_over(batch)
        return batch

    def _hand_over(self, batch: ChainBatch) -> None:
        """Note what is outstanding now: a batch as a whole, if its chains are not made yet."""
        if batch.out:
            self._outstanding[batch] = None
        else:
            self._outstanding.update(dict.fromkeys(batch.make_chains()))

    def expand(self, batch: ChainBatch, chains: list[DescriptorChain]) -> None:
        """Have the chains of a batch outstanding one by one, in its place; it has made them now."""
        self._outstanding.expand(batch, chains)

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
        code. If there are no others it waits for them as :meth:`wait_available` does.
        """
        native = self._native
        if native is None or native.last is not batch or not self._is_next(batch, lengths):
            return self._complete_and_pop(batch, lengths, limit, wait_ns, header_bytes)
        others, end = native.exchange(lengths, limit, wait_ns, header_bytes)
        if end == WRONG:
            return self._complete_and_pop(batch, lengths, limit, wait_ns, header_bytes)
        batch.out = False
        del self._outstanding[batch]
        if end == TELL:
            if self.interrupt is not None:
                self.interrupt()
            others, end = native.exchange((), limit, wait_ns, header_bytes)
        if others is not None:
            self._outstanding[others] = None
            return others
        return self.pop_batch(limit) if end == LEFT else self._nothing

    def _is_next(self, batch: ChainBatch, lengths: Sequence[int | None]) -> bool:
        """Tell whether a batch may go back whole, as far as the queue's order is concerned."""
        return (
            batch.out
            and not self._stopped
            and batch.owner is self
            and len(lengths) == batch.size
            and not (self._in_order and len(self._outstanding) > 1)
            and not self._replay
        )

    def _complete_and_pop(
        self,
        batch: ChainBatch,
        lengths: Sequence[int | None],
        limit: int,
        wait_ns: int,
        header_bytes: int,
    ) -> ChainBatch:
        self.add_used_batch(batch, lengths)
        self.notify()
        others = self.pop_batch(limit, header_bytes=header_bytes)
        if not others.size and wait_ns and self.wait_available(wait_ns):
            return self.pop_batch(limit, header_bytes=header_bytes)
        return others

    def put_back(self, chains: Sequence[DescriptorChain]) -> None:
        """Take chains unused from the device: the next call that takes chains gets them first.

        Raises :class:`InternalError` for a chain that the device does not have.
        """
        if self._stopped:
            return
        for chain in chains:
            if not chain.out or chain.owner is not self or chain in self._replay:
                raise InternalError(f"{chain!r} is put back, but the device does not have it")
        self._replay[:0] = chains

    def iter(self) -> Iterator[DescriptorChain]:
        """Take chains until none is available, those that become available meanwhile included.

        A driver can keep this going as long as it likes; :meth:`pop_many` bounds the work.
        """
        return iter(self.pop, None)

    __iter__ = iter

    # Giving it back

    def add_used(self, chain: DescriptorChain, length: int) -> None:
        """Give ``chain`` back to the driver with ``length`` bytes written, without notifying it.

        The bytes are those from the first writable one on (``SPL-34``). With ``VIRTIO_F_IN_ORDER``
        the driver sees it when all chains taken before it have been given back. Does nothing once
        the queue is broken or reset. Raises :class:`InternalError` for a chain already given back,
        or for a length that exceeds the writable part.
        """
        if self._stopped:
            return
        chain.end(self, length)
        if self._in_order:
            self._outstanding[chain] = length
            self._publish_in_turn()
        else:
            del self._outstanding[chain]
            told = length if length < MAX_USED_LENGTH else MAX_USED_LENGTH
            self._ring.give_back((chain.buffer_id,), (told,), (chain.slots,), chain.readable_length)

    def add_used_many(self, completions: Iterable[tuple[DescriptorChain, int]]) -> None:
        """Give several chains back, so that the driver sees all of them at once, or none."""
        if self._stopped:
            return
        outstanding = self._outstanding
        ids: list[int] = []
        lengths: list[int] = []
        slots: list[int] = []
        bytes_read = 0
        for chain, length in completions:
            chain.end(self, length)
            if self._in_order:
                outstanding[chain] = length
                continue
            del outstanding[chain]
            ids.append(chain.buffer_id)
            lengths.append(length if length < MAX_USED_LENGTH else MAX_USED_LENGTH)
            slots.append(chain.slots)
            bytes_read += chain.readable_length
        if self._in_order:
            self._publish_in_turn()
        elif ids:
            self._ring.give_back(ids, lengths, slots, bytes_read)

    def add_used_batch(self, batch: ChainBatch, lengths: Sequence[int | None]) -> None:
        """Give the chains of a batch back, all at once; ``None`` leaves a chain out.

        Raises :class:`InternalError` as :meth:`add_used` does, and ``ValueError`` unless there is
        one length for each chain.
        """
        if self._stopped or not (batch.size or lengths):
            return
        if len(lengths) != batch.size:
            raise ValueError(f"{len(lengths)} lengths for a batch of {batch.size} chains")
        if self._is_next(batch, lengths) and self._server.give_back_batch(batch, lengths):
            batch.out = False
            del self._outstanding[batch]
        else:
            pairs = zip(batch.make_chains(), cast(Sequence[int], lengths), strict=True)
            self.add_used_many([one for one in pairs if one[1] is not None])

    def _publish_in_turn(self) -> None:
        """Publish and forget the finished chains that no unfinished one precedes (``SPL-37``)."""
        ready = self._outstanding.take_finished()
        if ready:
            chains, lengths = zip(*ready, strict=True)
            self._ring.give_back(
                [chain.buffer_id for chain in chains],
                lengths,
                [chain.slots for chain in chains],
                sum(chain.readable_length for chain in chains),
            )

    def serve_natively(self, path: DataPath, limit: int, wait_ns: int = 0) -> tuple[int, int]:
        """Have ``path`` serve up to ``limit`` chains without Python, from ring to disk and back.

        Returns how many were served, and why that stopped: ``IDLE``, ``LEFT``, ``TELL`` or ``MORE``
        of :mod:`virtio.virtqueue.ring`. The driver is not notified. With ``wait_ns`` it waits so
        long for each chain, and in all for eight times that.
        """
        native = self._native
        if native is None or self._stopped or self._replay:
            return 0, LEFT
        if self._in_order and self._outstanding:
            return 0, LEFT
        return native.serve(path, limit, wait_ns)

    # Notifications

    def needs_notification(self) -> bool:
        """Tell whether the driver wants to hear of the chains given back since the last call."""
        ring = self._ring
        if not ring.unsignalled:
            return False
        if self.poll_ns:
            ring.active_at = monotonic_ns()
        return ring.wants_notification()

    def notify(self) -> None:
        """Call ``interrupt`` if the driver wants to hear of what was given back."""
        if self.needs_notification() and self.interrupt is not None:
            self.interrupt()

    def enable_notification(self, *, beyond_returned: bool = False) -> bool:
        """Ask the driver for a notification of the next chain that it makes available.

        Returns True when chains are available already: take those first, for the driver may not
        notify of them (``SPL-44``). With ``beyond_returned`` those that were put back do not count,
        for a device that needs more than these.
        """
        if self._stopped:
            return False
        available = self._server.request_notification()
        return available or (bool(self._replay) and not beyond_returned)

    def disable_notification(self) -> None:
        """Tell the driver that it need not notify; a hint only."""
        if not self._stopped:
            self._server.decline_notification()

    def has_available(self) -> bool:
        """Tell whether there are chains that the driver made available and nobody took yet."""
        return not self._stopped and (bool(self._replay) or self._ring.has_available())

    def patience(self) -> int:
        """Return for how many nanoseconds it pays to wait for the next chain on the processor.

        That is ``poll_ns`` when something was given back a short time ago, and else 0.
        """
        wait_ns = self.poll_ns
        paid = wait_ns and monotonic_ns() - self._ring.active_at < SHORT_WAITS * wait_ns
        return wait_ns if paid else 0

    def wait_available(self, wait_ns: int) -> bool:
        """Wait for a chain on the processor, others' Python running meanwhile; native code only."""
        if not wait_ns or self._native is None or self._stopped:
            return False
        return self._native.wait_available(wait_ns)

    # Watching it

    def watch(self, watcher: RingWatcher | None) -> None:
        """Tell ``watcher`` of each chain from now on, or nobody any more; see ``watched.py``."""
        from virtio.virtqueue.watched import watch

        watch(self._ring, watcher)
        if self._native is not None:
            self._native.watch(watcher)

    # What is known of it, without changing it

    @property
    def memory(self) -> GuestMemory:
        """The guest memory that the queue is in."""
        return self.window.memory

    @property
    def completed(self) -> int:
        """How many chains were given back."""
        return self._ring.completed

    @property
    def bytes_read(self) -> int:
        """How many bytes those offered to be read."""
        return self._ring.bytes_read

    @property
    def bytes_written(self) -> int:
        """How many bytes were written to those."""
        return self._ring.bytes_written

    @property
    def next_avail(self) -> int:
        """The position of the next chain to take; :class:`QueueState` tells how it counts."""
        return self._ring.next_avail

    @property
    def next_used(self) -> int:
        """The position of the next chain to give back."""
        return self._ring.next_used

    @property
    def outstanding_count(self) -> int:
        """How many chains are taken and not given back."""
        return self._outstanding.chain_count

    # Life and death

    def reset(self) -> None:
        """End the queue: no access to guest memory any more, by it or by its chains.

        Chains still out lose their views, and giving them back does nothing.
        """
        self._stopped = True
        self._breach = None
        if self._native is not None:
            self._native.close()
        self._ring.unsignalled = 0
        self._outstanding.revoke()
        self._replay.clear()
        self.window.close()

    def state(self) -> QueueState:
        """Return what :meth:`from_state` needs to continue, over the same content of memory."""
        breach = self._breach
        return QueueState(
            self.index,
            self.layout,
            self.features,
            self._ring.next_avail,
            self._ring.next_used,
            self._ring.unsignalled,
            self._outstanding.state(),
            None if breach is None else (breach.item, breach.message, breach.chain),
        )

    @classmethod
    def from_state(cls, memory: GuestMemory, state: QueueState) -> Queue:
        """Return a queue that continues where ``state`` was taken.

        It first hands out again the chains that the device had not given back. After it, call
        :meth:`enable_notification`, and serve what is available (``SPL-46``). Raises
        :class:`ConfigurationError` for a state that no queue can have been in.
        """
        check_queue_state(state)
        queue = cls(memory, state.layout, state.features, index=state.index)
        queue._ring.next_avail = state.next_avail
        queue._ring.next_used = state.next_used
        queue._ring.unsignalled = state.unsignalled
        if state.breach is not None:
            item, message, head = state.breach
            queue._break(DriverError(item, message, queue=state.index, chain=head))
        try:
            for saved in state.outstanding:
                queue._hand_out_again(saved)
        except DriverError:
            queue.reset()  # so that memory can be unmapped
            raise
        return queue

    def _hand_out_again(self, saved: SavedChain) -> None:
        chain = DescriptorChain(
            self, saved.descriptors, saved.head_index, saved.buffer_id, saved.slots
        )
        self._outstanding[chain] = saved.used_length
        if saved.used_length is None:
            self._replay.append(chain)
        else:
            chain.revoke()

    def _break(self, error: DriverError) -> None:
        """Serve no more: the driver broke a rule."""
        self._stopped = True
        self._breach = error

    def _refuse(self) -> None:
        """Raise again what broke the queue; a queue that was reset just has no chains."""
        if self._breach is not None:
            breach = self._breach
            raise DriverError(breach.item, breach.message, queue=breach.queue, chain=breach.chain)
