"""A guest's driver and a host, with the device between them on a loop that the test moves."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.spec.vsk import REQUEST, RESPONSE, RW, Packet, VsockRig
from vmm.vsock import VsockHost


class Neighbours(VsockRig):
    """The two sides: ``host`` is ours, and the test sends and reads the guest's packets."""

    def __init__(self) -> None:
        super().__init__()
        self.host = VsockHost(self.vsock)
        self.packets: list[Packet] = []
        self._threads = ThreadPoolExecutor(2)

    def move(self) -> None:
        """Let the device's loop and the guest do all that they can do now."""
        for _ in range(4):
            self.loop.run_once()
            self.packets += self.heard()

    def move_until(self, condition: Callable[[], object]) -> None:
        """Go on until something is so, ten seconds at most."""
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "it never came to be"
            self.move()

    def start(self, *arguments: Any, **options: Any) -> None:
        """As of every rig: take the device to DRIVER_OK."""
        super().start(*arguments, **options)

    def begin(self, call: Callable[[], Any]) -> "Future[Any]":
        """Make a call that waits for the guest on a thread of its own."""
        return self._threads.submit(call)

    def connected(self, port: int = 22, **options: Any) -> tuple[socket.socket, Packet]:
        """Connect to a port of the guest, which accepts; returns the socket and the request."""
        call = self.begin(lambda: self.host.connect(port, **options))
        self.move_until(lambda: self.packets)
        asked = self.packets.pop()
        assert asked.op == REQUEST
        self.answer(asked, RESPONSE)
        self.move_until(call.done)
        return call.result(), asked

    def answer(self, packet: Packet, op: int, data: bytes = b"", **fields: Any) -> None:
        """Send a packet from where one went to."""
        ports = {"src_port": packet.dst_port, "dst_port": packet.src_port, "type": packet.type}
        self.send(op, data, **ports, **fields)

    def data(self) -> bytes:
        """Return the data that the guest has got since the last time."""
        self.move()
        found = b"".join(one.data for one in self.packets if one.op == RW)
        self.packets = [one for one in self.packets if one.op != RW]
        return found

    def ops(self) -> list[int]:
        """Return the ops of the packets that the guest has got since the last time."""
        self.move()
        found, self.packets = [one.op for one in self.packets], []
        return found

    def close(self) -> None:
        self.host.end("the test is over")
        self._threads.shutdown()
        super().close()


@pytest.fixture
def neighbours() -> Iterator[Neighbours]:
    """A live device with a host and a guest."""
    before = threading.active_count()
    both = Neighbours()
    yield both
    both.close()
    assert threading.active_count() == before
