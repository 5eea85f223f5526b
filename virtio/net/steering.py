"""Receive steering: a flow comes in on the queue that the guest sends it on.

VIRTIO 1.4 "Automatic receive steering in multiqueue mode".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from virtio.net.packet import HEADER_BYTES
from virtio.virtqueue.chain import DescriptorChain

FLOWS: Final = 256
_LOOKED_AT: Final = HEADER_BYTES + 14 + 44
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"


class Steering:
    """Remembers the queue of each flow, in a table of fixed size by a number of the flow.

    The number is the same in both directions; flows that share one share a queue.
    """

    def __init__(self) -> None:
        self._queues = bytearray(FLOWS)

    def learn(self, chains: Iterable[DescriptorChain], queue: int) -> None:
        """Note that packets are sent on a queue."""
        for chain in chains:
            self._queues[flow_of(chain.read(_LOOKED_AT))] = queue

    def queue_of(self, packet: bytes) -> int:
        """Return the queue for a packet."""
        return self._queues[flow_of(packet)]


def flow_of(packet: bytes) -> int:
    """Return the number of a packet's flow, below ``FLOWS``: of its addresses and ports."""
    kind, ip = packet[24:26], packet[26:_LOOKED_AT]
    if kind == _IPV4 and len(ip) >= 24:
        ports = (ip[0] & 15) * 4
        parts = ip[12:16], ip[16:20], ip[ports : ports + 2], ip[ports + 2 : ports + 4]
    elif kind == _IPV6 and len(ip) >= 44:
        parts = ip[8:24], ip[24:40], ip[40:42], ip[42:44]
    else:
        return 0
    numbers = [int.from_bytes(part, "big") for part in parts]
    return (numbers[0] + numbers[1] + 31 * (numbers[2] + numbers[3])) % 251
