"""A console for the tests of the console device, and a host at each of its ports.

All numbers are typed from VIRTIO 1.4 "Console Device".
"""

import struct
from typing import Any, NamedTuple

from tests.spec.devices import EVERY_RING
from tests.spec.rig import SPLIT, Form, Rig
from virtio.console import Console, ConsolePort

F_SIZE, F_MULTIPORT, F_EMERG_WRITE = 1, 2, 4
RX0, TX0, CONTROL_RX, CONTROL_TX, RX1, TX1, RX2, TX2 = range(8)
DEVICE_READY, ADD, REMOVE, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME = range(8)
EMERG_WR = 0x08


class Told(NamedTuple):
    """A control message of the device: port, event, value, and the bytes that follow."""

    port: int
    event: int
    value: int
    extra: bytes = b""

    @classmethod
    def of(cls, data: bytes) -> "Told":
        """Read a message of ``struct { le32 id; le16 event; le16 value; u8 extra[]; }``."""
        port, event, value = struct.unpack_from("<IHH", data)
        return cls(port, event, value, data[8:])


class Host:
    """What the host does at a port: takes up to ``room`` bytes, and notes all that it hears."""

    def __init__(self, name: str = "", **options: Any) -> None:
        self.port = ConsolePort(name, **options)
        self.room = 1 << 40
        self.received = b""
        self.openings: list[bool] = []
        self.spaces = 0
        self.port.on_data = self._take
        self.port.on_guest_open = self.openings.append
        self.port.on_space = self._note_space

    def _take(self, data: bytes) -> int:
        taken = data[: self.room]
        self.received += taken
        self.room -= len(taken)
        return len(taken)

    def _note_space(self) -> None:
        self.spaces += 1

    def make_room(self, room: int = 1 << 40) -> None:
        """Take up to ``room`` bytes more."""
        self.room = room
        self.port.resume()


class ConsoleRig(Rig):
    """A live console of at most three ports; the driver has given no buffer yet.

    Without ``features`` all are accepted.
    """

    def __init__(
        self,
        *hosts: Host,
        form: Form = SPLIT,
        features: int = F_SIZE | F_MULTIPORT | F_EMERG_WRITE,
    ) -> None:
        self.hosts = hosts
        self.console = Console([host.port for host in hosts], max_ports=3, ring_features=EVERY_RING)
        super().__init__(self.console)
        self.start(features, form, size=32)

    def settle(self) -> None:
        """Let the device do all that it can do now."""
        self.serve()
        while self.loop.advance():
            self.serve()

    def say(self, port: int, event: int, value: int = 1) -> None:
        """Send a control message."""
        self.say_bytes(struct.pack("<IHH", port, event, value))

    def say_bytes(self, message: bytes) -> None:
        """Send anything as a control message; it must come back with nothing written."""
        used = self.request(CONTROL_TX, ((message,), ()))
        assert used.length == 0
        self.settle()

    def give(self, queue: int, *sizes: int) -> None:
        """Give the device a buffer of each size."""
        for size in sizes:
            self.add(queue, ((), (size,)))
        self.settle()

    def told(self, buffers: int = 16) -> list[Told]:
        """Give buffers for control messages, and return those that there are."""
        free = buffers - self.rings[CONTROL_RX].in_flight
        self.give(CONTROL_RX, *[64] * max(0, free))
        return [Told.of(one.data[: one.length]) for one in self.rings[CONTROL_RX].collect()]

    def set_up(self, *ports: int) -> None:
        """Go through the set-up of ports, up to the opening of the guest's ends."""
        self.say(0, DEVICE_READY)
        for port in ports:
            self.say(port, PORT_READY)
            self.say(port, PORT_OPEN)
        self.told()

    def put(self, queue: int, *data: bytes) -> None:
        """Send output of the guest, a buffer each."""
        for one in data:
            self.add(queue, ((one,), ()))
        self.settle()

    def got(self, queue: int) -> list[bytes]:
        """Return the bytes in the buffers that came back."""
        return [one.data[: one.length] for one in self.rings[queue].collect()]
