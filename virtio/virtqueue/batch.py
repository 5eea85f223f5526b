"""Several chains taken at once, to be answered at once: the form in which Python is fast.

VIRTIO 1.4 "Supplying Buffers to The Device", seen from the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import le
from struct import Struct
from typing import TYPE_CHECKING, cast, overload

from virtio.virtqueue.chain import VIRTQ_DESC_F_WRITE, DescriptorChain, plain_chain
from virtio.virtqueue.request import Request

if TYPE_CHECKING:
    from virtio.virtqueue.queue import Queue


class ChainBatch(Sequence[DescriptorChain]):
    """What :meth:`Queue.pop_batch` took: a sequence of chains that are made when asked for.

    Every descriptor has been copied and validated. A device that needs no more than the lengths
    (to discard data, to draw all random bytes at once) answers with :meth:`complete` and never pays
    for the chains; the first index or iteration makes all of them. From then on each chain goes
    back on its own or with the batch, exactly once.
    """

    __slots__ = (
        "_chains",
        "_queue",
        "_rooms",
        "addresses",
        "buffer_ids",
        "flags",
        "heads",
        "lengths",
    )

    def __init__(self, queue: Queue, chains: list[DescriptorChain] | None = None) -> None:
        self._queue = queue
        self._chains = chains
        self._rooms: list[int] | None = None
        # Of chains that are not made yet, each a single plain descriptor, in columns:
        self.heads: Sequence[int] = ()
        self.buffer_ids: Sequence[int] = ()
        self.addresses: Sequence[int] = ()
        self.lengths: Sequence[int] = ()
        self.flags: Sequence[int] = ()

    def count_plain(
        self,
        addresses: Sequence[int],
        lengths: Sequence[int],
        flags: Sequence[int],
        mask: int,
        wanted: int,
    ) -> int:
        """Return how many descriptors come before the first that is not plain.

        A plain one has flags of which those of ``mask`` are as ``wanted``, and lies in the window.
        """
        low, high = self._queue._window_start, self._queue._window_end
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
        if self._chains is not None:
            return sum(self.readable_lengths)
        return sum(self.lengths) - sum(self.writable_lengths)

    def _lengths_where(self, direction: int) -> list[int]:
        """Return the lengths of the descriptors of one direction, 0 for the others."""
        if self.flags and all_flags_are(self.flags, VIRTQ_DESC_F_WRITE, direction):
            return list(self.lengths)
        pairs = zip(self.lengths, self.flags, strict=True)
        return [n if flags & VIRTQ_DESC_F_WRITE == direction else 0 for n, flags in pairs]

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
        self._queue.add_used_batch(self, lengths)
        self._queue.notify()

    def give_back(self, lengths: Sequence[int | None]) -> bool:
        """Give all chains back at once, for :meth:`Queue.add_used_batch`, before they are made.

        Returns False, and does nothing, when one is left out or its length is wrong.
        """
        rooms = self.writable_lengths
        done = cast(Sequence[int], lengths)
        try:
            fits = done == rooms or (all(map(le, done, rooms)) and min(done) >= 0)
        except TypeError:  # None
            return False
        if fits:
            self._queue._publish_batch(self, done)
        return fits

    def frames(self, layout: Struct) -> list[Request]:
        """Return each chain as a :class:`Request` whose header is of that layout."""
        return [Request.of(self, index, layout) for index in range(len(self))]

    @property
    def queue_index(self) -> int:
        """The number of the queue in its device."""
        return self._queue.index

    def make_chains(self) -> list[DescriptorChain]:
        """Return the chains; they are made now, unless they exist."""
        if self._chains is None:
            descriptors = zip(self.addresses, self.lengths, self.flags, strict=True)
            parts = zip(descriptors, self.heads, self.buffer_ids, strict=True)
            queue = self._queue
            chains = [plain_chain(queue, one, head, number) for one, head, number in parts]
            self._keep(chains)
            return chains
        return self._chains

    def _keep(self, chains: list[DescriptorChain]) -> None:
        """Take chains that have been made now."""
        self._chains = chains
        if self._queue._lean is self:
            self._queue._take_apart(chains)
        else:  # it was given back whole, or reset
            for chain in chains:
                chain.release_views()

    def __len__(self) -> int:
        return len(self.heads if self._chains is None else self._chains)

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
