"""From the network to the guest: packets put into the buffers of one receive queue.

VIRTIO 1.4 "Setting Up Receive Buffers", "Processing of Incoming Packets".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from virtio.net.counters import NetCounters
from virtio.net.packet import HEADER_BYTES
from virtio.virtqueue.batch import ChainBatch
from virtio.virtqueue.chain import DescriptorChain

BURST: Final = 64
USUAL_ROOM: Final = 1526
"""How large a buffer is thought to be until one was seen: an Ethernet frame behind its header."""


class Receiver:
    """Packets that wait for buffers of one queue, finished and filtered.

    ``mergeable`` is whether a packet may fill several buffers. ``starved`` is whether the first one
    needs more buffers than there are.
    """

    def __init__(self, counters: NetCounters) -> None:
        self.packets: deque[bytes] = deque()
        self.mergeable = False
        self.starved = False
        self._counters = counters
        self._room = USUAL_ROOM

    def wanted(self) -> int:
        """Return how many buffers the next packets will take, as far as it can be told."""
        if not self.mergeable:
            return min(len(self.packets), BURST)
        room = self._room
        return sum(-(-len(packet) // room) for packet in islice(self.packets, BURST))

    def fill(self, chains: ChainBatch) -> list[int | None]:
        """Put packets into buffers; returns the used length of each, None for one left over.

        A packet takes all the buffers that it needs, or none (``NET-06``). One that does not fit is
        dropped whole (``NET-04``); the buffer is there for the next.
        """
        rooms, packets = chains.writable_lengths, self.packets
        answers: list[int | None] = []
        count = len(rooms)
        while packets and (at := len(answers)) < count:
            size = len(packets[0])
            if rooms[at] < HEADER_BYTES:  # no buffer for a packet, whatever comes
                answers.append(0)
            elif size <= rooms[at]:
                answers.append(chains[at].write(packets.popleft()))
                self._counters.received += 1
            elif not self.mergeable:
                self.drop_first()
            else:
                parts = self._parts(rooms, at, size)
                if not parts:
                    break
                _write_merged(chains[at : at + len(parts)], parts, packets.popleft())
                answers += parts
                self._counters.received += 1
        self.starved = bool(packets) and len(answers) < count
        if self.mergeable and count:
            self._room = max(1, min(rooms))
        return answers + [None] * (count - len(answers))

    def drop_first(self) -> None:
        """Drop the packet that waits first."""
        if self.packets:
            self.packets.popleft()
            self._counters.unfit += 1

    def _parts(self, rooms: Sequence[int], at: int, size: int) -> list[int]:
        """Return how many bytes go to each buffer from ``at`` on; nothing when they are too few."""
        parts: list[int] = []
        for room in islice(rooms, at, None):
            parts.append(min(room, size))
            size -= parts[-1]
            if not size:
                return parts
        return []


def _write_merged(chains: Sequence[DescriptorChain], parts: Sequence[int], packet: bytes) -> None:
    """Cut a packet over several buffers, all but the last full (``NET-05``)."""
    whole = bytearray(packet)
    whole[HEADER_BYTES - 2 : HEADER_BYTES] = len(parts).to_bytes(2, "little")
    at = 0
    with memoryview(whole) as view:
        for chain, length in zip(chains, parts, strict=True):
            chain.write(view[at : at + length])
            at += length
