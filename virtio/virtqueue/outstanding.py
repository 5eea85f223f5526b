"""What the device has of a queue: chains and batches taken and not given back, in the order taken.

VIRTIO 1.4 "In-order use of descriptors".
"""

from __future__ import annotations

from typing import Final

from virtio.virtqueue.batch import ChainBatch
from virtio.virtqueue.chain import DescriptorChain
from virtio.virtqueue.state import SavedChain

MAX_USED_LENGTH: Final = (1 << 32) - 1
"""A used length has 32 bits: of a chain of 2^32 bytes, one less is told (``SPL-34``)."""


class Outstanding(dict[DescriptorChain | ChainBatch, int | None]):
    """Maps what was taken to its used length: set once it is finished and waits for its turn.

    A batch stands for its chains, until one of them is made. What is added and removed by the
    mapping's own methods costs no step of Python's; the order is that of a dictionary.
    """

    def expand(self, batch: ChainBatch, chains: list[DescriptorChain]) -> None:
        """Put the chains of a batch in its place; does nothing when it is not here."""
        if batch not in self:
            return
        made: dict[DescriptorChain | ChainBatch, int | None] = dict.fromkeys(chains)
        if next(reversed(self)) is batch:
            del self[batch]
            self.update(made)
            return
        entries = list(self.items())
        self.clear()
        for entry, length in entries:
            self.update(made if entry is batch else {entry: length})

    def take_finished(self) -> list[tuple[DescriptorChain, int]]:
        """Remove and return the finished chains that no unfinished one precedes (``SPL-37``)."""
        finished: list[tuple[DescriptorChain, int]] = []
        for chain, length in self.items():
            if length is None or isinstance(chain, ChainBatch):
                break
            finished.append((chain, min(length, MAX_USED_LENGTH)))
        for chain, _ in finished:
            del self[chain]
        return finished

    @property
    def chain_count(self) -> int:
        """How many chains that is."""
        return sum(one.size if isinstance(one, ChainBatch) else 1 for one in self)

    def revoke(self) -> None:
        """Take everything away from the device."""
        for one in self:
            one.revoke()
        self.clear()

    def state(self) -> tuple[SavedChain, ...]:
        """Return all chains as plain values."""
        for one in tuple(self):
            if isinstance(one, ChainBatch):
                one.make_chains()
        return tuple(
            SavedChain(
                tuple(chain.descriptors), chain.head_index, chain.buffer_id, chain.slots, length
            )
            for chain, length in self.items()
            if isinstance(chain, DescriptorChain)
        )
