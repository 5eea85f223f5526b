"""From the guest to the network: the packets of one transmit queue.

VIRTIO 1.4 "Packet Transmission".

A backend that is full leaves chains with us. They are read again when it takes more: nothing is
copied to wait, so that a guest cannot make the host keep more than its own ring.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from virtio.net.backend import NetBackend
from virtio.net.counters import NetCounters
from virtio.net.offload import finished
from virtio.net.packet import MAX_PACKET_BYTES, sanitized
from virtio.virtqueue.chain import DescriptorChain

TURN_NS: Final = 2_000_000
"""After that much time others have their turn; cutting frames in software can take longer."""


class Transmitter:
    """Sends what is in the chains of one queue, in order.

    ``allowed`` is the mask of what the driver may leave unfinished. ``plugged`` is whether the
    cable is; what is sent without goes nowhere.
    """

    def __init__(self, backend: NetBackend, number: int, counters: NetCounters) -> None:
        self.allowed = 0
        self.plugged = True
        self._backend = backend
        self._number = number
        self._counters = counters
        self._held: deque[DescriptorChain] = deque()
        self._sent_of_first = 0

    @property
    def is_holding(self) -> bool:
        """Whether chains are held."""
        return bool(self._held)

    def send(self, chains: Sequence[DescriptorChain]) -> tuple[list[int | None], bool]:
        """Send the packets of some chains; returns their answers, and whether time ran out.

        A used length of 0, as nothing is written (``NET-14``), or None for those held. Time that
        ran out is made good by :meth:`flush`.
        """
        if self._held:
            self._held.extend(chains)
            return [None] * len(chains), False
        end_ns = time.monotonic_ns() + TURN_NS
        packets: list[bytes] = []
        ends: list[int] = []
        late = False
        for chain in chains:
            packets += self._packets_of(chain)
            ends.append(len(packets))
            if len(packets) > 64 and time.monotonic_ns() > end_ns:
                late = True
                break
        taken = self._give(packets)
        if taken == len(packets) and len(ends) == len(chains):
            return [0] * len(chains), False
        done = sum(end <= taken for end in ends)
        self._sent_of_first = taken - (ends[done - 1] if done else 0)
        self._held.extend(chains[done:])
        return [0] * done + [None] * (len(chains) - done), late and taken == len(packets)

    def flush(self) -> bool:
        """Send what is held, as far as the backend takes it; returns whether time ran out."""
        end_ns = time.monotonic_ns() + TURN_NS
        while self._held:
            packets = self._packets_of(self._held[0])[self._sent_of_first :]
            taken = self._give(packets)
            if taken < len(packets):
                self._sent_of_first += taken
                return False
            self._sent_of_first = 0
            self._held.popleft().complete(0)
            if time.monotonic_ns() > end_ns:
                return bool(self._held)
        return False

    def forget(self) -> None:
        """Let go of the chains that are held: the queue is reset."""
        self._held.clear()
        self._sent_of_first = 0

    def _packets_of(self, chain: DescriptorChain) -> list[bytes]:
        length = chain.readable_length
        data = chain.read(length) if length <= MAX_PACKET_BYTES else b""
        packet = sanitized(data, self.allowed)
        packets = [] if packet is None else finished(packet, self._backend.takes)
        if not packets:
            self._counters.refused += 1
        return packets

    def _give(self, packets: Sequence[bytes]) -> int:
        if not self.plugged:
            self._counters.nowhere += len(packets)
            return len(packets)
        taken = self._backend.send(packets, self._number) if packets else 0
        self._counters.sent += taken
        return taken


def forget_all(transmitters: Iterable[Transmitter]) -> None:
    """Let go of all chains."""
    for one in transmitters:
        one.forget()
