"""Fuzz both engines with a network card over a descriptor, and compare what they made of it.

Input: 8 bytes of features refused, 1 byte of what the network takes unfinished, whose highest bit
makes it a stream, then steps, each of a head of 4 bytes (operation and count, buffer size, length)
and as many bytes of data. The network is a socket: what the driver sees, what the network hears,
and what was counted must be the same at the end, unless rings were spoilt.
"""

import contextlib
import socket
import struct
from typing import Any

from tests.fuzz.targets.devices import EVERY_RING_FEATURE
from virtio import engine
from virtio.errors import DriverError
from virtio.net import Net
from virtio.net.lending import Descriptor
from virtio.testing import Bench, QueueFull
from vmm.net.stream import StreamNetwork
from vmm.net.tap import TapNetwork
from vmm.net.watched import WatchedBackend

OUT, IN, ARRIVE, HEAR, COMMAND, TIME, POKE = range(7)
HEAD = struct.Struct("<BBH")
STEPS_MAX, DATA_MAX, RING = 14, 2048, 16
MAC = b"\2\0\0\0\0\1"


class SocketTap(TapNetwork):
    """A tap that is a socket, each message of which is a packet."""

    def __init__(self, fd: int, takes: int) -> None:
        WatchedBackend.__init__(self, "tap", [fd])
        self._buffer = bytearray(1 << 17)
        self.takes = takes

    def descriptor(self, pair: int) -> Descriptor:
        """Return the socket."""
        return Descriptor(self.fds[pair], framed=False)

    def set_offloads(self, mask: int, pairs: int) -> None:
        """Leave it to the input."""


class Card:
    """A live card with an engine, and the other end of its network."""

    def __init__(self, refused: int, takes: int) -> None:
        self.is_stream = bool(takes & 0x80)
        kind = socket.SOCK_STREAM if self.is_stream else socket.SOCK_DGRAM
        ours, self.peer = socket.socketpair(socket.AF_UNIX, kind)
        self.peer.setblocking(False)
        ours.setblocking(False)
        fd = ours.detach()
        self.network = StreamNetwork(fd) if self.is_stream else SocketTap(fd, takes & 0x6F)
        self.net = Net(self.network, mac=MAC, mtu=1500, ring_features=EVERY_RING_FEATURE)
        features = self.net.device_features & ~refused | 1 << 32
        if not self.net.features_acceptable(features):
            features = self.net.device_features
        self.bench = Bench(self.net, features, queue_size=RING, memory_bytes=1 << 18)
        self.is_spoilt = False
        self.heard: list[bytes] = []
        self.used: list[tuple[int, int, bytes]] = []

    def step(self, operation: int, count: int, size: int, data: bytes) -> None:
        """Do one step, and let the card do all it can."""
        for _ in range(count):
            if operation == OUT:
                cut = size % (len(data) + 1)
                parts = [part for part in (data[:cut], data[cut:]) if part]
                self._add(1, parts, [8] if size & 128 else [])
            elif operation == IN:
                self._add(0, [data[:4]] if size & 64 else [], [size * 16 + 1] if size else [])
            elif operation == ARRIVE and data:  # no tap has packets of no bytes
                with contextlib.suppress(BlockingIOError):
                    # The kernel leaves a packet's last two bytes of header as they were.
                    whole = self.is_stream or len(data) < 12
                    self.peer.send(data if whole else data[:10] + b"\1\0" + data[12:])
        if operation == HEAR:
            self.hear()
        elif operation == COMMAND and len(self.bench.drivers) == 3:
            self.drain()  # as one engine reads on while the other waits for buffers
            self._add(2, [data] if data else [], [1])
        elif operation == TIME:
            self.bench.loop.advance(1)
        elif operation == POKE and data:
            self._poke(size, data)
        self.settle()

    def _poke(self, size: int, data: bytes) -> None:
        """Spoil a descriptor of what is on its way out."""
        self.is_spoilt = True
        memory = self.bench.memory
        at = self.bench.drivers[size & 1].layout[1 + size % 3] + size % 61
        memory.view(at, min(len(data), 16))[:] = data[:16]

    def _add(self, index: int, readable: list[bytes], writable: list[int]) -> bool:
        if not readable + writable:
            return False
        with contextlib.suppress(QueueFull):
            self.bench.drivers[index].add(readable, writable)
            return True
        return False

    def settle(self) -> None:
        """Let the card do all it can, and take what it has used."""
        for _ in range(3):
            self.bench.serve()
            self.bench.loop.run_once()
        self.bench.serve()
        for index, driver in enumerate(self.bench.drivers):
            with contextlib.suppress(*(AssertionError,) * self.is_spoilt):
                self.used += [(index, one.length, one.data) for one in driver.collect()]

    def hear(self) -> None:
        """Take what the network got."""
        with contextlib.suppress(BlockingIOError):
            while data := self.peer.recv(1 << 17):
                self.heard.append(data)

    def drain(self) -> None:
        """Give buffers until the guest has all packets, and hear all of its own."""
        for _ in range(6):
            while self._add(0, [], [2048]):
                pass
            self.settle()
            self.bench.loop.advance(1)
            self.settle()
            self.hear()

    def outcome(self) -> dict[str, Any]:
        """Return what became of everything, queue by queue."""
        # Python reads before it needs a buffer: it may have come on, and seen a bad frame before.
        if self.is_spoilt or not self.net.link:
            return {} if self.is_spoilt else {"link": False}
        heard = [b"".join(self.heard)] if self.is_stream else self.heard
        return {
            "used": [[one for one in self.used if one[0] == index] for index in range(3)],
            "heard": heard,
            "counters": self.net.counters,
            "link": self.net.link,
            "queues": [
                (one.state().next_used, one.completed, one.bytes_read, one.bytes_written)
                for one in self.bench.queues
                if one is not None
            ],
        }

    def close(self) -> None:
        """Close both ends."""
        self.bench.reset()
        self.network.close()
        self.peer.close()


def outcome(name: str, data: bytes) -> dict[str, Any]:
    """Return all that an engine did with an input."""
    usual = engine.current()
    engine.use(name)
    card = Card(int.from_bytes(data[:8], "little") & ~(0x1FF << 28), data[8])
    at, error = 9, ""
    try:
        for _ in range(STEPS_MAX):
            if at + HEAD.size > len(data):
                break
            operation, size, length = HEAD.unpack_from(data, at)
            at += HEAD.size + min(length, DATA_MAX)
            part = data[at - min(length, DATA_MAX) : at]
            card.step(operation % 8, 1 + operation // 8 % 16, size, part)
        card.drain()
    except DriverError as broken:
        error = str(broken)
    try:
        return {"error": error} if error and not card.is_spoilt else card.outcome()
    finally:
        card.close()
        engine.use(usual)


def one_input(data: bytes) -> None:
    """Run one input."""
    if len(data) < 9 or engine.native() is None:
        return
    python, native = outcome("python", data), outcome("native", data)
    different = [part for part in python if python.get(part) != native.get(part)]
    assert not different, f"python and native differ in {', '.join(different)}"
