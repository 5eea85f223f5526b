"""The agent's program, against a host that breaks the protocol."""

import struct
from collections.abc import Iterator

import pytest

from tests.unit.vmm.agent.fake_guest import EXITED_0, OUTPUT, READY, STATUS, frame
from tests.unit.vmm.agent.rig import PtyPort, RawHost, running_program
from vmm.image.agent import agent_program
from vmm.image.debian import find_tool

pytestmark = pytest.mark.skipif(find_tool("gcc") is None, reason="gcc is not installed")

HELLO, RUN, KILL = 1, 2, 8
RUN_HEAD = struct.pack("<IIHHB4x", 0, 65536, 1, 0, 0)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawHost]:
    port = PtyPort(tmp_path_factory.mktemp("agent") / "port")
    host = RawHost(port)
    with running_program(agent_program(), port):
        host.wait_for(0, READY)
        yield host


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<I", 0),
        struct.pack("<I", 4) + bytes(4),
        struct.pack("<I", 131073) + bytes(131073),
        frame(900, 0),
        frame(900, 11),
        frame(900, 12),
        frame(900, 13),
        frame(900, 11, bytes(4)),
        frame(900, 12, b"\x01"),
        frame(900, 255, bytes(1000)),
        frame(900, 2),
        frame(900, 2, RUN_HEAD + b"\0a"),
        frame(900, 2, RUN_HEAD + b"\0a\0b\0"),
        frame(900, 2, struct.pack("<IIHHB4x", 0, 0, 65535, 65535, 0) + b"\0a\0"),
        frame(900, 2, struct.pack("<IIHHB4x", 0, 0, 0, 0, 0) + b"\0\0\0"),
        frame(0, 2, RUN_HEAD + b"\0true\0"),
        frame(0, 3, bytes(4) + b"/proc/version\0"),
        frame(900, 3, bytes(4) + b"/proc/version"),
        frame(0, 5, bytes(1000)),
        frame(0, 6),
        frame(900, 5, bytes(1000)),
        frame(900, 6),
        frame(900, 7),
        frame(900, 8, b"\x09\0\0\0"),
        frame(900, 9, bytes(1000)),
        frame(900, 10, b"\x00"),
        frame(900, 4, bytes(4) + b"/dev/null\0") + frame(900, 5, bytes(32769)),
        frame(900, 4, bytes(4) + b"/dev/null\0") + frame(900, 6) + frame(900, 5, b"late"),
        frame(900, 4, bytes(4) + b"/dev/null\0") * 2,
        b"".join(frame(900 + at, 4, bytes(4) + b"/dev/null\0") for at in range(20))
        + b"".join(frame(900 + at, 8, bytes(4)) for at in range(20)),
    ],
)
def test_malformed_requests_are_survived(data: bytes, host: RawHost) -> None:
    host.send(data)
    host.send(frame(900, KILL, bytes(4)))
    host.send(frame(1000, HELLO))
    host.wait_for(1000, READY)  # by its answer all that was begun has ended

    host.send(frame(1001, RUN, struct.pack("<IIHHB4x", 0, 65536, 2, 0, 0) + b"\0echo\0well\0"))

    assert host.wait_for(1001, OUTPUT) == b"well\n"
    assert host.wait_for(1001, STATUS) == EXITED_0
