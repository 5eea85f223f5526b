"""The packets between a backend and the queues of a device: bounded, and filled from any thread."""

import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

MAX_PACKETS: Final = 512
MAX_BYTES: Final = 4 << 20


class Inbox:
    """Holds packets for a guest: up to ``MAX_PACKETS``, of ``MAX_BYTES`` in all, or one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._packets: deque[tuple[bytes, int | None]] = deque()
        self._bytes = 0
        self._refused = False

    def put(self, packets: Sequence[bytes], pair: int | None) -> int:
        """Take packets in order, and return how many there was room for."""
        with self._lock:
            room = MAX_PACKETS - len(self._packets)
            for count, packet in enumerate(packets):
                if count >= room or self._bytes > MAX_BYTES:
                    self._refused = True
                    return count
                self._packets.append((packet, pair))
                self._bytes += len(packet)
            return len(packets)

    def take(self, most: int) -> tuple[list[tuple[bytes, int | None]], bool]:
        """Return up to ``most`` packets with their pairs, and whether :meth:`put` refused some."""
        with self._lock:
            held = self._packets
            taken = [held.popleft() for _ in range(min(most, len(held)))]
            self._bytes -= sum(len(packet) for packet, _ in taken)
            refused, self._refused = self._refused and bool(taken), self._refused and not taken
            return taken, refused

    def __len__(self) -> int:
        return len(self._packets)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._packets.clear()
            self._bytes, self._refused = 0, False
