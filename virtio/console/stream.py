"""The bytes of one transmit queue on their way to the host, at the pace of the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from virtio.chain import MAX_CHAIN_BYTES

if TYPE_CHECKING:
    from virtio.chain import DescriptorChain
    from virtio.console.port import ConsolePort
    from virtio.virtqueue import Queue

BURST: Final = 64
STEP_BYTES: Final = 65536


class Stream:
    """Takes chains one by one, and the next only when the host took all of the one before.

    ``chain`` is the one in hand, ``offset`` how many of its bytes are done with. A saved queue
    hands the chain in hand out again when it is restored, so ``offset`` is all the state there is.
    """

    def __init__(self, offset: int = 0) -> None:
        self.chain: DescriptorChain | None = None
        self.offset = offset

    def drain(self, queue: Queue, port: ConsolePort | None) -> bool:
        """Hand over a burst; returns whether there may be more for a host that takes more."""
        for _ in range(BURST):
            self.chain = self.chain or queue.pop()
            if self.chain is None or not self._step(queue, self.chain, port):
                return False
        return True

    def skip(self) -> None:
        """Deliver no more of the chain in hand: its port is gone, or was closed."""
        if self.chain is not None or self.offset:
            self.offset = MAX_CHAIN_BYTES

    def _step(self, queue: Queue, chain: DescriptorChain, port: ConsolePort | None) -> bool:
        """Hand over a part of the chain; returns whether the host took all of the part."""
        left = max(0, chain.readable_length - self.offset)
        host = port if port is not None and port.host_open else None
        length = taken = min(left, STEP_BYTES) if host else left
        if host and length:
            taken = host._offer(chain.read(length, self.offset))
        self.offset += taken
        if taken == left:
            self.chain, self.offset = None, 0
            queue.add_used(chain, 0)
        return taken == length
