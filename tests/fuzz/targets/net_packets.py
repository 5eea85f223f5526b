"""Fuzz the network card with what a driver, a network and a host may do, packets and commands.

Input: 8 bytes of features refused, 1 byte of what the network takes unfinished, then steps, each of
a head of 4 bytes (operation, pair, two sizes) and as many bytes of data as the second size says.
After each step: what the network gets is a whole packet that it can trust; the guest gets each
packet in as many buffers as its header says, and what it never accepted is not in it; nothing that
waits grows past its bounds.
"""

import contextlib
import struct
from collections.abc import Sequence

from tests.fuzz.targets import assert_one_line
from tests.fuzz.targets.devices import EVERY_RING_FEATURE
from virtio.errors import DriverError
from virtio.net import Net, NetBackend, NetEnd
from virtio.net.inbox import MAX_PACKETS
from virtio.testing import Bench, QueueFull

OUT, IN, COMMAND, DELIVER, ROOM, LINK, TIME, RESTORE, DISABLE = range(9)
STEPS_MAX, PAIRS, LARGEST = 48, 2, 12 + 65535 + 22
HEAD = struct.Struct("<BBHH")
MAC = b"\2\0\0\0\0\1"
GUEST_KINDS = {1: 1 << 7, 4: 1 << 8, 5: 1 << 54 | 1 << 55}


class Wire(NetBackend):
    """A network with room for so many packets, which looks at each that it gets."""

    max_pairs = PAIRS

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.room = 1 << 20

    def attach(self, end: NetEnd) -> None:
        """Have the card."""
        self.end = end

    def send(self, packets: Sequence[bytes], pair: int) -> int:
        """Take packets, and look at them."""
        taken = min(len(packets), self.room)
        self.room -= taken
        for packet in packets[:taken]:
            self._check(packet)
        return taken

    def _check(self, packet: bytes) -> None:
        flags, kind, headers, size, start, offset, buffers = struct.unpack_from("<BBHHHHH", packet)
        frame = len(packet) - 12
        assert 14 <= frame <= LARGEST - 12
        assert buffers == 1
        assert flags in (0, 1)
        assert flags or not any((kind, size, headers, start, offset))
        if flags:
            assert self.takes & 1
            assert 14 <= start <= start + offset <= frame - 2
        if kind:
            assert self.takes & {1: 2, 4: 4, 5: 0x60}[kind & 0x7F]
            assert self.takes & 8 or not kind & 0x80
            assert size
            assert start < headers < frame


class Card:
    """A live card, and what its driver accepted."""

    def __init__(self, refused: int, takes: int) -> None:
        self.takes = takes
        device = self._make()
        features = device.device_features & ~refused | 1 << 32
        if not device.features_acceptable(features):
            features = device.device_features
        self.bench = Bench(device, features, queue_size=16, memory_bytes=1 << 20)
        self.switched: int | None = None

    def _make(self) -> Net:
        self.wire = Wire(self.takes)
        return Net(self.wire, mac=MAC, mtu=1500, pairs=PAIRS, ring_features=EVERY_RING_FEATURE)

    @property
    def net(self) -> Net:
        """The card, another one after each snapshot."""
        device = self.bench.device
        assert isinstance(device, Net)
        return device

    def step(self, operation: int, pair: int, size: int, data: bytes) -> None:
        """Do one step, let the card do all it can, and look at the buffers that come back."""
        bench, layout = self.bench, len(self.bench.drivers)
        index = 2 * (pair % PAIRS) if layout > 3 else 0
        if operation == OUT:
            self._add(index + 1, [data] if data else [], [size & 31] if size & 1 else [])
        elif operation == IN:
            self._add(index, [data[:4]] if size & 64 else [], [size & 0xFFF])
        elif operation == COMMAND and layout % 2:
            self._add(layout - 1, [data] if data else [], [1] if size & 7 else [])
        elif operation == DELIVER:
            assert 0 <= self.wire.end.deliver([data, data] if size & 1 else [data]) <= 2
        elif operation == ROOM:
            self.wire.room = size & 15
            self.wire.end.space(pair % PAIRS)
        elif operation == LINK:
            self.net.link = bool(size & 1)
        elif operation == RESTORE:
            bench.restore_into(self._make())
        elif operation == DISABLE and bench.queues[index] is not None and not size & 7:
            bench.disable_queue(index)
        for _ in range(200):
            bench.serve()
            if not bench.loop.advance(1 if operation == TIME else 0):
                break
        else:
            raise AssertionError("the card does not come to rest")
        self._look()

    def _add(self, index: int, readable: list[bytes], writable: list[int]) -> None:
        if self.bench.queues[index] is None or not readable + writable:
            return
        with contextlib.suppress(QueueFull):
            self.bench.drivers[index].add(readable, writable)

    def _look(self) -> None:
        assert len(self.net._inbox) <= MAX_PACKETS
        for index, driver in enumerate(self.bench.drivers):
            parts: list[bytes] = []
            for used in driver.collect() if self.bench.queues[index] is not None else ():
                assert used.length <= len(used.data)
                is_received = index % 2 == 0 and index < len(self.bench.drivers) - 1
                if is_received and (used.length or parts):
                    parts = self._piece([*parts, used.data[: used.length]])
            assert not parts, "a packet came in part"

    def _piece(self, parts: list[bytes]) -> list[bytes]:
        """Look at a packet when it is whole; returns what there is of one that is not."""
        first, features = parts[0], self.bench.features
        flags, kind, _, size, _, _, buffers = struct.unpack_from("<BBHHHHH", first)
        assert buffers >= 1
        assert buffers == 1 or features >> 15 & 1
        if len(parts) < buffers:
            return parts
        assert flags in ((0, 1, 2) if features >> 1 & 1 else (0,))
        assert not kind or (flags == 1 and size and features & GUEST_KINDS[kind & 0x7F])
        return []


def one_input(data: bytes) -> None:
    """Run one input."""
    if len(data) < 9:
        return
    card = Card(int.from_bytes(data[:8], "little") & ~(0x1FF << 28), data[8] & 0x6F)
    at = 9
    try:
        for _ in range(STEPS_MAX):
            if at + HEAD.size > len(data):
                break
            operation, pair, size, length = HEAD.unpack_from(data, at)
            at += HEAD.size + min(length, 2048)
            card.step(operation % 9, pair, size, data[at - min(length, 2048) : at])
    except DriverError as error:
        assert_one_line(error)
