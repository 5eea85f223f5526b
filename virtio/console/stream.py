"""The bytes of one transmit queue on their way to the host, at the pace of the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from virtio.virtqueue.chain import MAX_CHAIN_BYTES

if TYPE_CHECKING:
    from virtio.console.port import ConsolePort
    from virtio.virtqueue.chain import DescriptorChain
    from virtio.virtqueue.queue import Queue

BURST: Final = 64
STEP_BYTES: Final = 65536


class Stream:
    """Takes chains one by one, and the next only when the host took all of the one before.

    ``chain`` is the one in hand, ``offset`` how many of its bytes are done with. A saved queue
    hands the chain in hand out again when it is restored, so ``offset`` is all the state there is.
    """

    def __init__(self, port: ConsolePort | None, offset: int = 0) -> None:
        self.chain: DescriptorChain | None = None
        self.offset = offset
        self._port = port

    def meet(self, port: ConsolePort | None) -> None:
        """Go on with what has the port's number now: nobody gets the rest of another's chain.

        Nor does a host that closed its end, and opened it since.
        """
        was_cut = port is not None and port.take_cut()
        if (was_cut or port is not self._port) and (self.chain is not None or self.offset):
            self.offset = MAX_CHAIN_BYTES
        self._port = port

    def drain(self, queue: Queue) -> bool:
        """Hand over a burst; returns whether there may be more for a host that takes more."""
        for _ in range(BURST):
            self.chain = self.chain or queue.pop()
            if self.chain is None or not self._step(queue, self.chain):
                return False
        return True

    def _step(self, queue: Queue, chain: DescriptorChain) -> bool:
        """Hand over a part of the chain; returns whether the host took all of the part."""
        left = max(0, chain.readable_length - self.offset)
        host = self._port if self._port is not None and self._port.host_open else None
        length = taken = min(left, STEP_BYTES) if host else left
        if host and length:
            taken = host.offer(chain.read(length, self.offset))
        self.offset += taken
        if taken == left:
            self.chain, self.offset = None, 0
            queue.add_used(chain, 0)
        return taken == length
