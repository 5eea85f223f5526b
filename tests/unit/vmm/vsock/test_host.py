"""Sockets of the host reach the guest's, and the other way round."""

import os
import socket

import pytest

from tests.spec.vsk import (
    EOM,
    GUEST_CID,
    RECEIVE,
    REQUEST,
    RESPONSE,
    RST,
    RW,
    SEND,
    SEQPACKET,
    SHUTDOWN,
    STREAM,
)
from tests.unit.vmm.vsock.conftest import Neighbours
from virtio.errors import ConfigurationError

PORT = 4321


def read_all(sock: socket.socket) -> bytes:
    sock.settimeout(10)
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


# To the guest


def test_host_connects_and_both_speak(neighbours: Neighbours) -> None:
    sock, asked = neighbours.connected(22)
    with sock:
        sock.sendall(b"hello")
        assert (asked.type, asked.dst_port, neighbours.data()) == (STREAM, 22, b"hello")

        neighbours.answer(asked, RW, b"welcome")
        sock.settimeout(10)

        assert sock.recv(100) == b"welcome"
    assert neighbours.host.guest_cid == GUEST_CID


def test_port_where_nobody_listens_refuses(neighbours: Neighbours) -> None:
    call = neighbours.begin(lambda: neighbours.host.connect(22))
    neighbours.move_until(lambda: neighbours.packets)
    neighbours.answer(neighbours.packets.pop(), RST)
    neighbours.move_until(call.done)

    with pytest.raises(ConnectionRefusedError, match="port 22 of the guest: nobody listens there"):
        call.result()


def test_guest_that_does_not_answer_is_given_up(neighbours: Neighbours) -> None:
    call = neighbours.begin(lambda: neighbours.host.connect(22, timeout=0.05))
    neighbours.move_until(call.done)

    with pytest.raises(TimeoutError, match=r"port 22 of the guest: no answer within 0\.05 s"):
        call.result()
    assert neighbours.ops() == [REQUEST, RST]


def test_driver_that_comes_later_is_waited_for(neighbours: Neighbours) -> None:
    neighbours.driver.status = 0
    call = neighbours.begin(lambda: neighbours.host.connect(22))
    neighbours.move_until(lambda: neighbours.vsock._calls)
    neighbours.start(3, size=64)

    neighbours.move_until(lambda: neighbours.packets)
    neighbours.answer(neighbours.packets.pop(), RESPONSE)
    neighbours.move_until(call.done)

    call.result().close()


def test_reset_of_the_driver_ends_sockets_and_attempts(neighbours: Neighbours) -> None:
    sock, _ = neighbours.connected(22)
    call = neighbours.begin(lambda: neighbours.host.connect(23))
    neighbours.move_until(lambda: neighbours.packets)

    neighbours.driver.status = 0

    with sock:
        assert read_all(sock) == b""
    with pytest.raises(ConnectionRefusedError, match="the guest's driver was reset"):
        call.result(10)


def test_end_of_the_machine_ends_what_waits(neighbours: Neighbours) -> None:
    listener = neighbours.host.listen(PORT)
    accepting = neighbours.begin(listener.accept)
    connecting = neighbours.begin(lambda: neighbours.host.connect(22))
    neighbours.move_until(lambda: neighbours.packets)

    neighbours.host.end("the guest powered off")

    with pytest.raises(ConnectionAbortedError, match="port 4321 of the host: the guest powered"):
        accepting.result(10)
    with pytest.raises(ConnectionAbortedError):
        listener.accept()
    with pytest.raises(ConnectionRefusedError, match="port 22 of the guest: the guest powered"):
        connecting.result(10)
    with pytest.raises(ConnectionRefusedError, match="port 23 of the guest: the guest powered"):
        neighbours.host.connect(23)


@pytest.mark.parametrize("port", [-1, 0xFFFF_FFFF, 1 << 40])
def test_port_that_cannot_be_is_refused(port: int, neighbours: Neighbours) -> None:
    for call in (neighbours.host.connect, neighbours.host.listen):
        with pytest.raises(ConfigurationError, match=f"port {port}: must be 0 to 4294967294"):
            call(port)


def test_datagrams_are_no_kind_of_ours(neighbours: Neighbours) -> None:
    with pytest.raises(ConfigurationError, match="sockets of type 2: must be"):
        neighbours.host.connect(1, kind=socket.SOCK_DGRAM)


# From the guest


def test_guest_connects_to_a_listener(neighbours: Neighbours) -> None:
    with neighbours.host.listen(PORT) as listener:
        neighbours.send(REQUEST, dst_port=PORT)
        assert neighbours.ops() == [RESPONSE]
        neighbours.send(RW, b"early", dst_port=PORT)
        with listener.accept(10) as sock:
            sock.settimeout(10)
            assert sock.recv(100) == b"early"
            sock.sendall(b"answer")
            assert neighbours.data() == b"answer"


def test_guest_is_refused_where_nobody_listens(neighbours: Neighbours) -> None:
    with neighbours.host.listen(PORT):
        neighbours.send(REQUEST, dst_port=PORT + 1)
        neighbours.send(REQUEST, dst_port=PORT, type=SEQPACKET)
        assert neighbours.ops() == [RST, RST]
    neighbours.send(REQUEST, dst_port=PORT)
    assert neighbours.ops() == [RST]


def test_listener_takes_no_more_than_its_backlog(neighbours: Neighbours) -> None:
    with neighbours.host.listen(PORT, backlog=2) as listener:
        for number in range(3):
            neighbours.send(REQUEST, dst_port=PORT, src_port=number)
        assert neighbours.ops() == [RESPONSE, RESPONSE, RST]
        listener.accept(10).close()
        neighbours.send(REQUEST, dst_port=PORT, src_port=3)
        assert RESPONSE in neighbours.ops()


def test_connection_that_nobody_accepted_ends_with_the_listener(neighbours: Neighbours) -> None:
    with neighbours.host.listen(PORT):
        neighbours.send(REQUEST, dst_port=PORT)
        neighbours.move()

    assert neighbours.ops() == [RESPONSE, SHUTDOWN]


def test_port_has_one_listener_at_a_time(neighbours: Neighbours) -> None:
    with (
        neighbours.host.listen(PORT),
        pytest.raises(ConfigurationError, match="port 4321 of the host: somebody listens there"),
    ):
        neighbours.host.listen(PORT)
    with neighbours.host.listen(PORT, kind=socket.SOCK_SEQPACKET), neighbours.host.listen(PORT):
        pass


def test_nobody_comes_in_time(neighbours: Neighbours) -> None:
    with (
        neighbours.host.listen(PORT) as listener,
        pytest.raises(TimeoutError, match=r"port 4321 of the host: no connection within 0\.01 s"),
    ):
        listener.accept(0.01)


def test_guest_is_refused_when_the_host_has_no_descriptor_left(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", full)
    with neighbours.host.listen(PORT):
        neighbours.send(REQUEST, dst_port=PORT)

    assert neighbours.ops() == [RST]
    assert neighbours.driver.status == 0x0F


# Between the two


def test_messages_keep_their_ends(neighbours: Neighbours) -> None:
    sock, asked = neighbours.connected(22, kind=socket.SOCK_SEQPACKET)
    with sock:
        sock.send(b"one")
        sock.send(b"two")
        neighbours.move()
        assert [(one.data, one.flags) for one in neighbours.packets] == [
            (b"one", EOM),
            (b"two", EOM),
        ]

        neighbours.answer(asked, RW, b"a, ")
        neighbours.answer(asked, RW, b"b", flags=EOM)
        neighbours.answer(asked, RW, b"c", flags=EOM)
        sock.settimeout(10)

        assert (sock.recv(100), sock.recv(100)) == (b"a, b", b"c")


def test_message_that_no_guest_takes_ends_the_connection(neighbours: Neighbours) -> None:
    sock, _ = neighbours.connected(22, kind=socket.SOCK_SEQPACKET)
    with sock:
        sock.send(bytes(65537))
        neighbours.move()
        assert read_all(sock) == b""
    assert RST in neighbours.ops()


def test_neither_side_is_read_faster_than_the_other_takes(neighbours: Neighbours) -> None:
    sock, asked = neighbours.connected(22)
    sent = os.urandom(3 << 20)
    with sock:
        sock.settimeout(30)
        sending = neighbours.begin(lambda: sock.sendall(sent))
        got = b""
        neighbours.move_until(lambda: len(neighbours.vsock._connections) == 1)
        waits = neighbours.vsock._connections[STREAM, asked.src_port, 22]
        while len(got) < len(sent):
            got += neighbours.data()
            assert waits._outgoing_bytes <= 65536
            neighbours.answer(asked, 6, fwd_cnt=len(got) & 0xFFFF_FFFF)
        sending.result()
    assert got == sent


def test_reader_that_waits_holds_the_guest_back_and_gets_everything(
    neighbours: Neighbours,
) -> None:
    sock, asked = neighbours.connected(22)
    sent, offset, told = os.urandom(2 << 20), 0, 0
    with sock:
        while offset - told < 65536:  # until the guest has no credit: nobody reads
            neighbours.answer(asked, RW, sent[offset : offset + 4096])
            offset += 4096
            neighbours.move()
            told = ([told] + [one.fwd_cnt for one in neighbours.packets if one.op == 6])[-1]
            neighbours.packets = []
        assert offset < len(sent)
        reading = neighbours.begin(lambda: read_all(sock))
        while offset < len(sent):
            neighbours.move()
            told = ([told] + [one.fwd_cnt for one in neighbours.packets if one.op == 6])[-1]
            neighbours.packets = []
            part = sent[offset : offset + min(4096, 65536 - (offset - told))]
            if part:
                neighbours.answer(asked, RW, part)
                offset += len(part)
        neighbours.answer(asked, SHUTDOWN, flags=SEND)
        neighbours.move_until(reading.done)

    assert reading.result() == sent


def test_end_of_what_one_side_sends_is_the_end_for_the_other(neighbours: Neighbours) -> None:
    sock, asked = neighbours.connected(22)
    with sock:
        sock.sendall(b"request")
        sock.shutdown(socket.SHUT_WR)
        assert neighbours.data() == b"request"
        [end] = neighbours.packets
        assert (end.op, end.flags) == (SHUTDOWN, SEND)

        neighbours.answer(asked, RW, b"response")
        neighbours.answer(asked, SHUTDOWN, flags=SEND)

        assert read_all(sock) == b"response"


def test_socket_that_was_closed_ends_both_directions(neighbours: Neighbours) -> None:
    sock, asked = neighbours.connected(22)
    sock.close()
    neighbours.move()

    [end] = neighbours.packets
    assert (end.op, end.flags) == (SHUTDOWN, SEND | RECEIVE)
    neighbours.answer(asked, RST)
    assert not neighbours.vsock._connections


def test_guest_that_writes_to_a_closed_socket_is_told(neighbours: Neighbours) -> None:
    sock, asked = neighbours.connected(22)
    sock.close()

    neighbours.answer(asked, RW, b"data")  # before the loop sees that it was closed

    assert SHUTDOWN in neighbours.ops()


def test_guest_that_reads_no_more_ends_the_hosts_writing(neighbours: Neighbours) -> None:
    sock, asked = neighbours.connected(22)
    with sock:
        neighbours.answer(asked, SHUTDOWN, flags=RECEIVE)
        neighbours.move()
        with pytest.raises(BrokenPipeError):
            sock.sendall(b"x")


def test_no_descriptor_stays_open(neighbours: Neighbours) -> None:
    counts = []
    for _ in range(5):
        sock, asked = neighbours.connected(22)
        sock.close()
        assert neighbours.ops() == [SHUTDOWN]
        neighbours.answer(asked, RST)
        counts.append(len(os.listdir("/proc/self/fd")))

    assert len({*counts}) == 1
