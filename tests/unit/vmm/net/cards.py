"""Network cards on the bench, each with a network that is under test behind it."""

from typing import Any

from virtio.net import Net, NetBackend
from virtio.testing import Bench

MAC_A = b"\2\0\0\0\0\1"
MAC_B = b"\2\0\0\0\0\2"
BROADCAST = b"\xff" * 6
PLAIN = bytes(10) + b"\1\0"
GUEST_OFFLOADS = 1 << 1 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 54 | 1 << 55 | 1 << 2
CTRL_RX = 1 << 18


def frame(to: bytes, source: bytes, size: int = 60, fill: int = 0) -> bytes:
    """Return an Ethernet frame."""
    return (to + source + b"\x88\xb5").ljust(size, bytes([fill]))


class Card:
    """A live card with 64 buffers; ``options`` are those of :class:`Net`."""

    def __init__(
        self, backend: NetBackend, mac: bytes = MAC_A, *, refuse: int = 0, **options: Any
    ) -> None:
        self.backend = backend
        self.net = Net(backend, mac=mac, **options)
        self.bench = Bench(self.net, self.net.device_features & ~refuse)
        self.refill()

    def refill(self) -> None:
        """Have 64 buffers again."""
        driver = self.bench.drivers[0]
        for _ in range(64 - driver.in_flight):
            driver.add([], [4096])

    def send(self, *packets: bytes) -> int:
        """Send packets, headers included; returns how many came back."""
        for packet in packets:
            self.bench.drivers[1].add([packet])
        self.settle()
        return len(self.bench.drivers[1].collect())

    def send_frames(self, *frames: bytes) -> int:
        """Send frames that are finished."""
        return self.send(*[bytes(12) + one for one in frames])

    def settle(self) -> None:
        """Let the card, and what is ready to be read or written, do all they can."""
        for _ in range(20):
            self.bench.serve()
            self.bench.loop.run_once()
        self.bench.serve()

    def got(self) -> list[bytes]:
        """Return the packets that came in, headers included."""
        self.settle()
        got = [one.data[: one.length] for one in self.bench.drivers[0].collect()]
        self.refill()
        self.settle()
        return got

    def frames(self) -> list[bytes]:
        """Return the frames that came in."""
        return [one[12:] for one in self.got()]
