"""Networks over stream sockets."""

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spec.net import NEEDS_CSUM, TCPV4, checksums_hold, header, ip_frame
from tests.unit.vmm.net.cards import MAC_A, MAC_B, PLAIN, Card, frame
from virtio import engine
from virtio.errors import ConfigurationError
from vmm.net.stream import StreamNetwork, connect, taken_over


class Peer:
    """The other end of a stream, and the card at this one."""

    def __init__(self) -> None:
        ours, self.socket = socket.socketpair()
        self.socket.settimeout(60)
        self.network = StreamNetwork(ours.detach())
        self.card = Card(self.network)

    def say(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(struct.pack(">I", len(one)) + one for one in frames))

    def hear(self) -> bytes:
        (length,) = struct.unpack(">I", self._exactly(4))
        return self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            data += self.socket.recv(length - len(data))
        return data


@pytest.fixture(params=["native", "python"], autouse=True)
def use_engine(request: pytest.FixtureRequest) -> Iterator[None]:
    usual = engine.current()
    engine.use(request.param)
    yield
    engine.use(usual)


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.socket.close()
    made.network.close()


def test_frames_go_both_ways(peer: Peer) -> None:
    peer.card.send_frames(frame(MAC_B, MAC_A, 60), frame(MAC_B, MAC_A, 1514))
    peer.say(frame(MAC_A, MAC_B, 70), frame(MAC_A, MAC_B, 14))

    assert [peer.hear(), peer.hear()] == [frame(MAC_B, MAC_A, 60), frame(MAC_B, MAC_A, 1514)]
    assert peer.card.got() == [PLAIN + frame(MAC_A, MAC_B, 70), PLAIN + frame(MAC_A, MAC_B, 14)]


def test_peer_gets_finished_frames(peer: Peer) -> None:
    peer.card.send(header(NEEDS_CSUM, TCPV4, 54, 1000, 34, 16) + ip_frame(bytes(1500)))

    frames = [peer.hear(), peer.hear()]

    assert [len(one) for one in frames] == [1054, 554]
    assert all(map(checksums_hold, frames))


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 40])
def test_frame_that_comes_in_parts_is_put_together(cut: int, peer: Peer) -> None:
    data = struct.pack(">I", 60) + frame(MAC_A, MAC_B)

    peer.socket.sendall(data[:cut])
    before = peer.card.got()
    peer.socket.sendall(data[cut:] + data)

    assert before == []
    assert peer.card.frames() == [frame(MAC_A, MAC_B)] * 2


def test_frame_of_no_bytes_is_nothing(peer: Peer) -> None:
    peer.say(b"", frame(MAC_A, MAC_B))

    assert peer.card.frames() == [frame(MAC_A, MAC_B)]
    assert peer.card.net.link


@pytest.mark.parametrize("length", [65558, 100_000, 0xFFFF_FFFF])
def test_frame_too_long_for_ethernet_pulls_the_cable(
    length: int, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    peer.socket.sendall(struct.pack(">I", length))
    peer.card.settle()

    assert not peer.card.net.link
    assert len(caplog.messages) == 1
    assert "the guest's cable is pulled" in caplog.text


def test_frames_before_one_that_is_too_long_still_come(peer: Peer) -> None:
    good = struct.pack(">I", 60) + frame(MAC_A, MAC_B)
    peer.socket.sendall(good * 2 + struct.pack(">I", 65558))

    assert peer.card.frames() == [frame(MAC_A, MAC_B)] * 2
    assert not peer.card.net.link


def test_peer_that_goes_pulls_the_cable_and_packets_go_nowhere(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    peer.socket.close()
    peer.card.settle()

    assert not peer.card.net.link
    assert peer.card.send_frames(frame(MAC_B, MAC_A)) == 1
    assert "the guest's cable is pulled" in caplog.text


def test_packets_wait_for_a_peer_that_does_not_read_and_none_is_lost(peer: Peer) -> None:
    sent, data = 1, b""
    while peer.card.send_frames(*[frame(MAC_B, MAC_A, 1514, sent & 255)] * 50) == 50:
        sent += 1

    while len(data) < sent * 50 * 1518:
        data += peer.socket.recv(1 << 20)
        peer.card.settle()

    assert [data[at - 1] for at in range(1518, len(data) + 1, 1518)] == [
        number & 255 for number in range(1, sent + 1) for _ in range(50)
    ]
    assert len(peer.card.bench.drivers[1].collect()) == 50


def test_peer_is_not_read_while_the_guest_has_no_buffers(peer: Peer) -> None:
    peer.socket.setblocking(False)
    one = struct.pack(">I", 1514) + frame(MAC_A, MAC_B, 1514)
    sent = 0
    try:
        while True:
            sent += peer.socket.send(one * 100)
            peer.card.settle()
    except BlockingIOError:
        pass

    came = sum(len(peer.card.got()) for _ in range(sent // 1518 // 64 + 9))

    assert sent < 16 << 20
    assert came == sent // 1518


def test_stream_goes_on_after_a_reset(peer: Peer) -> None:
    peer.socket.sendall(struct.pack(">I", 60) + frame(MAC_A, MAC_B)[:20])
    peer.card.settle()
    peer.card.bench.reset()

    card = Card(peer.network)
    peer.socket.sendall(frame(MAC_A, MAC_B)[20:])

    assert card.frames() == [frame(MAC_A, MAC_B)]


# Where the other end is


def test_socket_is_found_by_path_or_by_port(tmp_path: Path) -> None:
    path = tmp_path / "peer"
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(str(path))
        unix.listen()
        for place in (str(path), f"127.0.0.1:{tcp.getsockname()[1]}"):
            os.close(connect(place))


@pytest.mark.parametrize("place", ["missing", "127.0.0.1:1", "x" * 200])
def test_peer_that_is_not_there_is_told(place: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="net socket="):
        connect(place if ":" in place else str(tmp_path / place))


def test_port_out_of_range_is_told() -> None:
    with pytest.raises(ConfigurationError, match="the port must be 1 to 65535"):
        connect("localhost:65536")


@pytest.mark.parametrize("text", ["fd:", "fd:x", "fd:-1", "fd:9999999999"])
def test_descriptor_that_is_none_is_told(text: str) -> None:
    with pytest.raises(ConfigurationError, match="must be fd:N"):
        taken_over(text)


def test_descriptor_that_is_not_open_is_told() -> None:
    with pytest.raises(ConfigurationError, match="must be an open one"):
        taken_over("fd:999999")
