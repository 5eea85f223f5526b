"""The guest's sockets as UNIX sockets of the host, as other monitors have them."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.spec.vsk import REQUEST, RESPONSE, RST, RW, SEQPACKET, SHUTDOWN
from tests.unit.vmm.vsock.conftest import Neighbours
from virtio.errors import ConfigurationError
from vmm.vsock.unix import UnixSockets


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The path of the socket."""
    return str(tmp_path / "v.sock")


@pytest.fixture
def sockets(neighbours: Neighbours, path: str) -> Iterator[UnixSockets]:
    """The UNIX sockets of the device, which is live."""
    with UnixSockets(path, neighbours.host) as made:
        neighbours.driver.status = 0
        neighbours.start(3, size=64)
        yield made


def caller(path: str, *said: bytes) -> socket.socket:
    """Return a program's socket, connected to ``path``, after it has said something."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(path)
    for one in said:
        sock.sendall(one)
    return sock


@pytest.mark.usefixtures("sockets")
@pytest.mark.parametrize("greeting", [b"CONNECT 52\n", b"CONNECT 52\r\n", b"CONNECT 0000000052\n"])
def test_program_that_names_a_port_speaks_with_it(
    greeting: bytes, neighbours: Neighbours, path: str
) -> None:
    with caller(path, greeting + b"and more") as sock:
        neighbours.move_until(lambda: neighbours.packets)
        asked = neighbours.packets.pop()
        assert (asked.op, asked.dst_port) == (REQUEST, 52)
        neighbours.answer(asked, RESPONSE)
        neighbours.move()

        assert sock.recv(100) == b"OK %d\n" % asked.src_port
        assert neighbours.data() == b"and more"
        neighbours.answer(asked, RW, b"answer")
        assert sock.recv(100) == b"answer"


@pytest.mark.usefixtures("sockets")
def test_greeting_may_come_in_pieces(neighbours: Neighbours, path: str) -> None:
    with caller(path) as sock:
        for piece in (b"CON", b"NECT ", b"52", b"\n"):
            sock.sendall(piece)
            neighbours.move()
        assert [one.dst_port for one in neighbours.packets] == [52]


@pytest.mark.usefixtures("sockets")
@pytest.mark.parametrize(
    "said",
    [
        b"\n",
        b"HELLO 52\n",
        b"CONNECT\n",
        b"CONNECT -1\n",
        b"CONNECT 4294967296\n",
        b"CONNECT 52 53\n",
        b"CONNECT 52" + b" " * 40,
        b"\0" * 100,
    ],
)
def test_program_that_says_something_else_is_sent_away(
    said: bytes, neighbours: Neighbours, path: str
) -> None:
    with caller(path, said) as sock:
        neighbours.move()
        with suppress(ConnectionResetError):  # when something was left unread
            assert sock.recv(100) == b""
    assert neighbours.ops() == []


@pytest.mark.usefixtures("sockets")
def test_program_that_says_nothing_is_sent_away_in_the_end(
    neighbours: Neighbours, path: str
) -> None:
    with caller(path) as sock:
        neighbours.move()
        neighbours.loop.advance(4.9)
        neighbours.move()
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        neighbours.loop.advance(0.2)
        assert sock.recv(1) == b""


@pytest.mark.usefixtures("sockets")
def test_program_is_sent_away_when_the_guest_refuses(neighbours: Neighbours, path: str) -> None:
    with caller(path, b"CONNECT 52\n") as sock:
        neighbours.move_until(lambda: neighbours.packets)
        neighbours.answer(neighbours.packets.pop(), RST)
        assert sock.recv(100) == b""


@pytest.mark.usefixtures("sockets")
def test_programs_that_wait_are_limited(neighbours: Neighbours, path: str) -> None:
    callers = []
    for _ in range(70):
        callers.append(caller(path))
        neighbours.move()
    gone = 0
    for one in callers:
        one.setblocking(False)
        with suppress(BlockingIOError):
            gone += one.recv(1) == b""
        one.close()
    assert gone == 70 - 64


def test_program_that_comes_before_the_driver_waits_for_it(
    neighbours: Neighbours, path: str
) -> None:
    neighbours.driver.status = 0
    with (
        UnixSockets(path, neighbours.host),
        caller(path, b"CONNECT 52\n"),
    ):
        neighbours.move()
        neighbours.start(3, size=64)
        neighbours.move()
        assert [one.dst_port for one in neighbours.packets] == [52]


@pytest.mark.usefixtures("sockets")
def test_reset_sends_away_who_was_about_to_connect(neighbours: Neighbours, path: str) -> None:
    with caller(path, b"CONN") as early, caller(path, b"CONNECT 52\n") as late:
        neighbours.move()
        neighbours.driver.status = 0
        neighbours.start(3, size=64)
        neighbours.move()

        assert (late.recv(1), neighbours.ops()) == (b"", [REQUEST])
        early.close()
    with caller(path, b"CONNECT 53\n"):
        neighbours.move()
        assert neighbours.ops() == [REQUEST]


@pytest.mark.usefixtures("sockets")
def test_guest_connects_to_who_listens_at_the_path_of_the_port(
    neighbours: Neighbours, path: str
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}_1234")
        listener.listen()
        neighbours.send(REQUEST)
        assert neighbours.ops() == [RESPONSE]
        sock, _ = listener.accept()
        with sock:
            neighbours.send(RW, b"hello")
            sock.settimeout(10)
            assert sock.recv(100) == b"hello"
            sock.sendall(b"welcome")
            assert neighbours.data() == b"welcome"
        assert SHUTDOWN in neighbours.ops()


@pytest.mark.usefixtures("sockets")
def test_guest_is_refused_where_nobody_listens(neighbours: Neighbours) -> None:
    neighbours.send(REQUEST)
    neighbours.send(REQUEST, type=SEQPACKET)
    assert neighbours.ops() == [RST, RST]


@pytest.mark.usefixtures("sockets")
def test_listener_of_the_python_side_comes_first(neighbours: Neighbours) -> None:
    with neighbours.host.listen(1234) as listener:
        neighbours.send(REQUEST)
        listener.accept(10).close()
    assert RESPONSE in neighbours.ops()


@pytest.mark.usefixtures("sockets")
def test_socket_is_the_owners_alone(path: str) -> None:
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_socket_is_gone_afterwards(sockets: UnixSockets, path: str) -> None:
    sockets.close()
    sockets.close()
    assert not os.path.lexists(path)


def test_socket_that_was_left_behind_is_replaced(neighbours: Neighbours, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with UnixSockets(path, neighbours.host):
        caller(path).close()


def test_path_that_is_taken_is_left_alone(neighbours: Neighbours, path: str) -> None:
    Path(path).write_text("mine")
    with pytest.raises(ConfigurationError, match=r"vsock socket .*v\.sock: there is something al"):
        UnixSockets(path, neighbours.host)
    assert Path(path).read_text() == "mine"
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        with pytest.raises(ConfigurationError, match="there is something already"):
            UnixSockets(path, neighbours.host)
        caller(path).close()


@pytest.mark.parametrize(
    ("name", "message"),
    [("no/folder", "No such file or directory"), ("x" * 200, "the path may have 96 bytes at most")],
)
def test_path_that_cannot_be_is_refused(
    name: str, message: str, neighbours: Neighbours, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        UnixSockets(str(tmp_path / name), neighbours.host)
