"""Several chains taken at once, to be answered at once: the form in which Python is fast.

VIRTIO 1.4 "Supplying Buffers to The Device", seen from the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, cast, overload

from virtio.chain import VIRTQ_DESC_F_WRITE, Descriptor, DescriptorChain, plain_chain

if TYPE_CHECKING:
    from virtio.virtqueue import Queue

_length = itemgetter(1)


class ChainBatch(Sequence[DescriptorChain]):
    """What :meth:`Queue.pop_batch` took: a sequence of chains that are made when asked for.

    Every descriptor has been copied and validated. A device that needs no more than the lengths
    (to discard data, to draw all random bytes at once) answers with :meth:`complete` and never pays
    for the chains; the first index or iteration makes all of them. From then on each chain goes
    back on its own or with the batch, exactly once.
    """

    __slots__ = ("_chains", "_queue", "_rooms", "buffer_ids", "descriptors", "heads")

    def __init__(self, queue: Queue, chains: list[DescriptorChain] | None = None) -> None:
        self._queue = queue
        self._chains = chains
        self._rooms: list[int] | None = None
        # Of chains that are not made yet, each a single plain descriptor:
        self.heads: list[int] = []
        self.buffer_ids: list[int] = []
        self.descriptors: list[Descriptor] = []

    @property
    def readable_lengths(self) -> list[int]:
        """How many bytes of each chain the device may read."""
        if self._chains is not None:
            return [chain.readable_length for chain in self._chains]
        return [0 if flags & VIRTQ_DESC_F_WRITE else n for _, n, flags in self.descriptors]

    @property
    def writable_lengths(self) -> list[int]:
        """How many bytes of each chain the device may write."""
        if self._chains is not None:
            return [chain.writable_length for chain in self._chains]
        if self._rooms is None:
            self._rooms = [
                n if flags & VIRTQ_DESC_F_WRITE else 0 for _, n, flags in self.descriptors
            ]
        return self._rooms

    @property
    def readable_bytes(self) -> int:
        """How many bytes the device may read, in all chains together."""
        if self._chains is not None:
            return sum(self.readable_lengths)
        readable: int = sum(map(_length, self.descriptors)) - sum(self.writable_lengths)
        return readable

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

        Returns False, and does nothing, when one is left out or its length is wrong. Raises
        ``ValueError`` unless there is one length for each chain.
        """
        for length, room in zip(lengths, self.writable_lengths, strict=True):
            if length is None or not 0 <= length <= room:
                return False
        self._queue._publish_batch(self, cast(Sequence[int], lengths))
        return True

    def make_chains(self) -> list[DescriptorChain]:
        """Return the chains; they are made now, unless they exist."""
        if self._chains is None:
            parts = zip(self.descriptors, self.heads, self.buffer_ids, strict=True)
            queue = self._queue
            self._chains = [plain_chain(queue, one, head, number) for one, head, number in parts]
            if queue._lean is self:
                queue._take_apart(self._chains)
            else:  # it was given back whole, or reset
                for chain in self._chains:
                    chain.release_views()
        return self._chains

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
