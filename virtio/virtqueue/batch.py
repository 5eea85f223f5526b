"""Several chains taken at once, to be answered at once: the form in which Python is fast.

VIRTIO 1.4 "Supplying Buffers to The Device", seen from the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import le
from struct import Struct
from typing import Protocol, cast, overload

from virtio.virtqueue.chain import (
    VIRTQ_DESC_F_WRITE,
    ChainOwner,
    Descriptor,
    DescriptorChain,
    checked_chain,
)
from virtio.virtqueue.request import Request

Column = Sequence[int]
Columns = tuple[int, Column, Column, Column, Column, Column]
"""Plain chains: how many; their heads, buffer ids, addresses, lengths, and flags."""


class BatchOwner(ChainOwner, Protocol):
    """The queue that a batch came from."""

    def add_used_batch(self, batch: ChainBatch, lengths: Sequence[int | None]) -> None:
        """Give the chains back, each with its number of bytes written."""

    def expand(self, batch: ChainBatch, chains: list[DescriptorChain]) -> None:
        """Have the chains outstanding one by one, in place of the batch."""


class ChainBatch(Sequence[DescriptorChain]):
    """The chains that :meth:`Queue.pop_batch` took: a sequence whose items are made when asked for.

    Every descriptor has been copied and validated. A device that needs no more than the lengths
    (to discard data, to draw all random bytes at once) answers with :meth:`complete` and never pays
    for the chains; the first index or iteration makes all of them. From then on each chain goes
    back on its own or with the batch, exactly once.

    ``size`` is how many there are. ``out`` tells whether the device has the batch as a whole: until
    a chain is made, the batch goes back, or the queue is reset.
    """

    __slots__ = (
        "_chains",
        "_rooms",
        "addresses",
        "buffer_ids",
        "flags",
        "heads",
        "lengths",
        "out",
        "owner",
        "size",
    )

    def __init__(self, owner: BatchOwner, chains: list[DescriptorChain] | None = None) -> None:
        self.owner = owner
        self.out = chains is None
        self.size = 0 if chains is None else len(chains)
        self._chains = chains
        self._rooms: list[int] | None = None
        # Of chains that are not made yet, each a single plain descriptor, in columns:
        self.heads: Sequence[int] = ()
        self.buffer_ids: Sequence[int] = ()
        self.addresses: Sequence[int] = ()
        self.lengths: Sequence[int] = ()
        self.flags: Sequence[int] = ()

    def add(
        self,
        count: int,
        heads: Sequence[int],
        buffer_ids: Sequence[int],
        addresses: Sequence[int],
        lengths: Sequence[int],
        flags: Sequence[int],
    ) -> None:
        """Add the first ``count`` of some chains, column by column; the columns are given away."""
        if count < len(flags):
            heads, buffer_ids, flags = heads[:count], buffer_ids[:count], flags[:count]
            addresses, lengths = addresses[:count], lengths[:count]
        if self.heads:
            heads, buffer_ids = (*self.heads, *heads), (*self.buffer_ids, *buffer_ids)
            addresses, lengths = (*self.addresses, *addresses), (*self.lengths, *lengths)
            flags = (*self.flags, *flags)
        self.size += count
        self.heads, self.buffer_ids, self.flags = heads, buffer_ids, flags
        self.addresses, self.lengths = addresses, lengths

    @property
    def readable_lengths(self) -> list[int]:
        """How many bytes of each chain the device may read."""
        if self._chains is not None:
            return [chain.readable_length for chain in self._chains]
        return self._lengths_where(0)

    @property
    def writable_lengths(self) -> list[int]:
        """How many bytes of each chain the device may write."""
        if self._chains is not None:
            return [chain.writable_length for chain in self._chains]
        if self._rooms is None:
            self._rooms = self._lengths_where(VIRTQ_DESC_F_WRITE)
        return self._rooms

    @property
    def readable_bytes(self) -> int:
        """How many bytes the device may read, in all chains together."""
        return sum(self.lengths) - sum(self.writable_lengths)

    def _lengths_where(self, direction: int) -> list[int]:
        """Return the lengths of the descriptors of one direction, 0 for the others."""
        if self.flags and all_flags_are(self.flags, VIRTQ_DESC_F_WRITE, direction):
            return list(self.lengths)
        pairs = zip(self.lengths, self.flags, strict=True)
        return [n if flags & VIRTQ_DESC_F_WRITE == direction else 0 for n, flags in pairs]

    def fitting(self, lengths: Sequence[int | None]) -> Sequence[int] | None:
        """Return the lengths; None when one is missing, or has no room in its chain."""
        known = cast(Sequence[int], lengths)
        rooms = self.writable_lengths
        try:
            fits = known == rooms or (all(map(le, known, rooms)) and min(known) >= 0)
        except TypeError:  # None
            return None
        return known if fits else None

    def write_each(self, parts: Iterable[bytes]) -> list[int]:
        """Copy one part to each chain, from its first writable byte on, as far as it has room.

        Returns how many bytes were written to each, which is what :meth:`complete` takes. Raises
        ``ValueError`` unless there is one part for each chain.
        """
        return [chain.write(part) for chain, part in zip(self, parts, strict=True)]

    def complete(self, lengths: Sequence[int | None]) -> None:
        """Give the chains back, each with its number of bytes written, and notify if asked to.

        ``None`` leaves a chain out: it is completed on its own, later. Raises what
        :meth:`DescriptorChain.complete` raises, and ``ValueError`` unless there is one length for
        each chain.
        """
        self.owner.add_used_batch(self, lengths)
        self.owner.notify()

    def requests(self, layout: Struct) -> list[Request]:
        """Return each chain as a :class:`Request` whose header is of that layout."""
        chains = self.make_chains()
        return [Request.of(self, index, chain, layout) for index, chain in enumerate(chains)]

    @property
    def queue_index(self) -> int:
        """The number of the queue in its device."""
        return self.owner.index

    def make_chains(self) -> list[DescriptorChain]:
        """Return the chains; they are made now, unless they exist."""
        if self._chains is None:
            self._chains = chains = self._new_chains()
            if self.out:
                self.out = False
                self.owner.expand(self, chains)
            else:  # it was given back whole, or revoked
                for chain in chains:
                    chain.revoke()
        return self._chains

    def _new_chains(self) -> list[DescriptorChain]:
        owner = self.owner
        descriptors: Iterable[Descriptor] = zip(
            self.addresses, self.lengths, self.flags, strict=True
        )
        parts = zip(descriptors, self.heads, self.buffer_ids, strict=True)
        return [
            checked_chain(owner, (one,), 0, 0, one[1], head, number, 1)
            if one[2] & VIRTQ_DESC_F_WRITE
            else checked_chain(owner, (one,), 1, one[1], 0, head, number, 1)
            for one, head, number in parts
        ]

    def revoke(self) -> None:
        """Belong to the device no more: the queue has been reset."""
        self.out = False

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[DescriptorChain]:
        return iter(self.make_chains())

    @overload
    def __getitem__(self, index: int) -> DescriptorChain: ...

    @overload
    def __getitem__(self, index: slice) -> list[DescriptorChain]: ...

    def __getitem__(self, index: int | slice) -> DescriptorChain | list[DescriptorChain]:
        return self.make_chains()[index]


def all_flags_are(flags: Sequence[int], mask: int, wanted: int) -> bool:
    """Whether all flags, of which those of ``mask`` count, are as ``wanted``; they mostly agree."""
    kinds = flags[:1] if flags.count(flags[0]) == len(flags) else set(flags)
    return all(one & mask == wanted for one in kinds)


def count_plain(
    owner: ChainOwner,
    addresses: Sequence[int],
    lengths: Sequence[int],
    flags: Sequence[int],
    mask: int,
    wanted: int,
) -> int:
    """Return how many descriptors come before the first that is not plain.

    A plain one has flags of which those of ``mask`` are as ``wanted``, and lies in the window.
    """
    low, high = owner.window.start, owner.window.end
    if (
        (low == 0 or min(addresses) >= low)
        and max(addresses) + max(lengths) <= high  # which is more than is needed
        and all_flags_are(flags, mask, wanted)
    ):
        return len(flags)
    columns = enumerate(zip(addresses, lengths, flags, strict=True))
    for at, (address, length, one) in columns:
        if one & mask != wanted or address < low or address + length > high:
            return at
    return len(flags)
