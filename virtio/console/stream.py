"""The bytes of one transmit queue on their way to the host, at the pace of the host."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from virtio.device.handlers import TURN_NS
from virtio.virtqueue.chain import MAX_CHAIN_BYTES

if TYPE_CHECKING:
    from virtio.console.port import ConsolePort
    from virtio.virtqueue.chain import DescriptorChain
    from virtio.virtqueue.queue import Queue

BURST: Final = 64
STEP_BYTES: Final = 65536

# The budget of one call, after which others have their turn: what a host does with bytes may cost
# much more than their copy, and 64 chains of any length are no bound.
TURN_BYTES: Final = 256 * 1024


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
        """Hand over a burst; returns whether there may be more for a host that takes more.

        A burst ends with BURST parts, TURN_BYTES, or the part during which TURN_NS passed.
        """
        room, end_ns = TURN_BYTES, time.monotonic_ns() + TURN_NS
        for _ in range(BURST):
            self.chain = self.chain or queue.pop()
            if self.chain is None:
                return False
            handed = self._step(queue, self.chain)
            if handed < 0:
                return False
            room -= handed
            if room <= 0 or time.monotonic_ns() > end_ns:
                break
        return True

    def _step(self, queue: Queue, chain: DescriptorChain) -> int:
        """Hand over a part of the chain; returns its bytes, or -1 when the host took less.

        Bytes for nobody cost nothing, and count for none.
        """
        left = max(0, chain.readable_length - self.offset)
        host = self._port if self._port is not None and self._port.host_open else None
        length = taken = min(left, STEP_BYTES) if host else left
        if host and length:
            taken = host.offer(chain.read(length, self.offset))
        self.offset += taken
        if taken == left:
            self.chain, self.offset = None, 0
            queue.add_used(chain, 0)
        if taken < length:
            return -1
        return length if host else 0
