"""Packets that native code moves, between a ring and a stream, and those that it leaves."""

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.spec.net import NEEDS_CSUM, TCPV4, header, ip_frame
from tests.unit.vmm.net.cards import CTRL_RX, MAC_A, MAC_B, PLAIN, Card, frame
from virtio import engine
from vmm.net.stream import StreamNetwork

MERGEABLE = 1 << 15
CROWD = b"\1\0\x5e\0\0\1"


class Watched(StreamNetwork):
    """A stream that counts what Python had to do for it."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.by_python = 0

    def send(self, *arguments: Any) -> int:
        """Count, and send."""
        self.by_python += 1
        return super().send(*arguments)

    def read_packets(self, pair: int) -> list[bytes]:
        """Count, and read."""
        self.by_python += 1
        return super().read_packets(pair)


class Line:
    """A card on a stream, and its peer."""

    def __init__(self, refuse: int = 0) -> None:
        ours, self.peer = socket.socketpair()
        self.peer.settimeout(60)
        self.network = Watched(ours.detach())
        self.card = Card(self.network, refuse=refuse)

    def say(self, *frames: bytes) -> None:
        self.peer.sendall(b"".join(struct.pack(">I", len(one)) + one for one in frames))


@pytest.fixture(autouse=True)
def native() -> Iterator[None]:
    if engine.native() is None:
        pytest.skip("the native parts are not built")
    usual = engine.current()
    engine.use("native")
    yield
    engine.use(usual)


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.peer.close()
    made.network.close()


def test_finished_frames_pass_without_python(line: Line) -> None:
    line.say(*[frame(MAC_A, MAC_B, 1514, n) for n in range(40)])
    got = line.card.got()
    line.card.send_frames(*[frame(MAC_B, MAC_A, 60, n) for n in range(40)])

    assert got == [PLAIN + frame(MAC_A, MAC_B, 1514, n) for n in range(40)]
    assert line.peer.recv(1 << 20, socket.MSG_DONTWAIT) == b"".join(
        struct.pack(">I", 60) + frame(MAC_B, MAC_A, 60, n) for n in range(40)
    )
    assert line.network.by_python == 0
    assert (line.card.net.counters.sent, line.card.net.counters.received) == (40, 40)


def test_frames_of_others_are_kept_away_without_python(line: Line) -> None:
    line.say(frame(MAC_B, MAC_A), frame(CROWD, MAC_B), frame(MAC_A, MAC_B))

    assert line.card.frames() == [frame(MAC_A, MAC_B)]
    assert line.card.net.counters.filtered == 2
    assert line.network.by_python == 0


def test_frames_for_a_listed_group_come_in_their_place(line: Line) -> None:
    table = struct.pack("<II6s", 0, 1, CROWD)
    line.card.bench.request([b"\1\0" + table], [1], queue=2)

    line.say(frame(MAC_A, MAC_B, fill=1), frame(CROWD, MAC_B), frame(MAC_A, MAC_B, fill=2))

    assert line.card.frames() == [
        frame(MAC_A, MAC_B, fill=1),
        frame(CROWD, MAC_B),
        frame(MAC_A, MAC_B, fill=2),
    ]


def test_frames_that_python_cuts_keep_their_place_among_others(line: Line) -> None:
    large = header(NEEDS_CSUM, TCPV4, 54, 1000, 34, 16) + ip_frame(bytes(1500))
    plain = bytes(12) + frame(MAC_B, MAC_A)

    line.card.send(plain, large, plain)

    data, lengths = line.peer.recv(1 << 20), []
    while data:
        (length,) = struct.unpack_from(">I", data)
        lengths.append(length)
        data = data[4 + length :]
    assert lengths == [60, 1054, 554, 60]


def test_large_frame_fills_several_buffers_or_is_dropped() -> None:
    for refuse, came in ((0, [4096, 4096, 820]), (MERGEABLE, [])):
        line = Line(refuse | CTRL_RX)
        line.say(frame(MAC_A, MAC_B, 9000))

        assert [len(one) for one in line.card.got()] == came
        assert line.card.net.counters.unfit == (not came)
        assert line.network.by_python == 0
        line.peer.close()
        line.network.close()


def test_descriptor_is_not_watched_while_there_is_no_buffer(line: Line) -> None:
    loop = line.card.bench.loop
    line.say(*[frame(MAC_A, MAC_B)] * 65)
    line.card.settle()
    before = bool(loop.readers)

    came = line.card.frames() + line.card.frames()

    assert not before
    assert loop.readers
    assert came == [frame(MAC_A, MAC_B)] * 65


def test_packets_while_the_cable_is_pulled_are_lost_and_later_ones_come(line: Line) -> None:
    line.card.net.link = False
    line.say(frame(MAC_A, MAC_B, fill=1))
    lost = line.card.got()
    line.card.net.link = True
    line.say(frame(MAC_A, MAC_B, fill=2))

    assert lost == []
    assert line.card.frames() == [frame(MAC_A, MAC_B, fill=2)]


def test_frame_that_was_read_in_part_outlives_a_reset(line: Line) -> None:
    data = struct.pack(">I", 60) + frame(MAC_A, MAC_B)
    line.peer.sendall(data + data[:30])
    got = line.card.frames()
    line.card.bench.reset()

    card = Card(line.network)
    line.peer.sendall(data[30:])

    assert got == card.frames() == [frame(MAC_A, MAC_B)]
