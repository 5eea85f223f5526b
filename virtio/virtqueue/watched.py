"""Rings that tell a watcher of each chain that is taken and given back: what a trace stands on.

A ring becomes one of these while somebody watches, and is the plain class again afterwards, so that
a ring which nobody watches does not even ask whether somebody does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import TYPE_CHECKING, Final, Protocol

from virtio.virtqueue.chain import VIRTQ_DESC_F_WRITE, Descriptor, DescriptorChain
from virtio.virtqueue.packed import PackedRing
from virtio.virtqueue.split import SplitRing

if TYPE_CHECKING:
    from virtio.native.records import Records
    from virtio.virtqueue.batch import ChainBatch
    from virtio.virtqueue.ring import Ring

HEAD_BYTES: Final = 16
"""How much is told of what a chain lets the device read first."""

Taken = tuple[int, int, int, bytes, tuple[Descriptor, ...]]
"""A chain: time, id, number of descriptors, its first bytes to read, and descriptors.

Of a long chain native code tells the first descriptors only.
"""

Given = tuple[int, int, int]
"""A chain that was given back: time, id, and how many bytes were written."""


class RingWatcher(Protocol):
    """Who hears of a ring; with the work lock of the queue held, so that it must be quick.

    Times are in nanoseconds of ``CLOCK_MONOTONIC``.
    """

    def taken(self, chains: Sequence[Taken]) -> None:
        """Chains were taken from the ring."""

    def given(self, chains: Sequence[Given]) -> None:
        """Chains are about to be shown to the driver as used."""

    def native(self, make: Callable[[], Records]) -> Records:
        """Return where native code tells of chains, of ``make`` or of the last time.

        Whoever watches reads them there.
        """


def watch(ring: Ring, watcher: RingWatcher | None) -> None:
    """Have a ring in Python tell ``watcher`` of its chains, or nobody any more."""
    ring.watcher = watcher
    if isinstance(ring, SplitRing):
        ring.__class__ = WatchedSplitRing if watcher else SplitRing
    elif isinstance(ring, PackedRing):
        ring.__class__ = WatchedPackedRing if watcher else PackedRing


def _tell_chains(ring: Ring, chains: Sequence[DescriptorChain]) -> None:
    now = monotonic_ns()
    if ring.watcher is not None and chains:
        ring.watcher.taken([_taken(ring, chain, now) for chain in chains])


def _tell_plain(ring: Ring, batch: ChainBatch) -> None:
    now = monotonic_ns()
    if ring.watcher is None or not batch.buffer_ids:
        return
    columns = zip(batch.buffer_ids, batch.addresses, batch.lengths, batch.flags, strict=True)
    ring.watcher.taken(
        [
            (now, number, 1, _head(ring, one), (one,))
            for number, *fields in columns
            if (one := (fields[0], fields[1], fields[2] & VIRTQ_DESC_F_WRITE))
        ]
    )


def _tell_given(ring: Ring, ids: Sequence[int], lengths: Sequence[int]) -> None:
    now = monotonic_ns()
    if ring.watcher is not None:
        ring.watcher.given(
            [(now, number, length) for number, length in zip(ids, lengths, strict=True)]
        )


def _taken(ring: Ring, chain: DescriptorChain, now: int) -> Taken:
    told = tuple((one[0], one[1], one[2] & VIRTQ_DESC_F_WRITE) for one in chain.descriptors)
    return now, chain.buffer_id, len(told), _head(ring, told[0]), told


def _head(ring: Ring, first: Descriptor) -> bytes:
    """Return the first bytes that a chain lets the device read, of the memory that is checked."""
    address, length, writes = first
    if writes or not length:
        return b""
    return b"".join(ring.window.views(address, min(length, HEAD_BYTES)))


class WatchedSplitRing(SplitRing):
    """A split ring that somebody watches."""

    __slots__ = ()

    def take(self) -> DescriptorChain | None:
        """Return the next chain; see :meth:`Ring.take`."""
        chain = super().take()
        if chain is not None:
            _tell_chains(self, [chain])
        return chain

    def take_batch(self, limit: int, header_bytes: int = -1) -> ChainBatch:
        """Take up to ``limit`` chains; see :meth:`Ring.take_batch`."""
        batch = super().take_batch(limit, header_bytes)
        if batch.out:
            _tell_plain(self, batch)
        else:
            _tell_chains(self, batch.make_chains())
        return batch

    def give_back(
        self, ids: Sequence[int], lengths: Sequence[int], slots: Sequence[int], bytes_read: int
    ) -> None:
        """Write the used entries; see :meth:`Ring.give_back`."""
        _tell_given(self, ids, lengths)
        super().give_back(ids, lengths, slots, bytes_read)


class WatchedPackedRing(PackedRing):
    """A packed ring that somebody watches."""

    __slots__ = ()

    def take(self) -> DescriptorChain | None:
        """Return the next chain; see :meth:`Ring.take`."""
        chain = super().take()
        if chain is not None:
            _tell_chains(self, [chain])
        return chain

    def take_batch(self, limit: int, header_bytes: int = -1) -> ChainBatch:
        """Take up to ``limit`` chains; those that are not plain come by :meth:`take`."""
        batch = super().take_batch(limit, header_bytes)
        if batch.out:
            _tell_plain(self, batch)
        return batch

    def give_back(
        self, ids: Sequence[int], lengths: Sequence[int], slots: Sequence[int], bytes_read: int
    ) -> None:
        """Write the used entries; see :meth:`Ring.give_back`."""
        _tell_given(self, ids, lengths)
        super().give_back(ids, lengths, slots, bytes_read)
