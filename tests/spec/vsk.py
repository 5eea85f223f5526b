"""A socket device for its tests: the driver's packets, and a host that notes what it hears.

All numbers are typed from VIRTIO 1.4 "Socket Device".
"""

import struct
from typing import Any, NamedTuple

from tests.spec.devices import EVERY_RING
from tests.spec.rig import SPLIT, Form, Rig
from virtio.vsock import Vsock, VsockConnection

F_STREAM, F_SEQPACKET, F_NO_IMPLIED_STREAM = 1, 2, 4
RX, TX, EVENT = range(3)
STREAM, SEQPACKET = 1, 2
INVALID, REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST = range(8)
RECEIVE, SEND = 1, 2
EOM, EOR = 1, 2
HOST_CID, GUEST_CID = 2, 0x77
HOST_PORT, GUEST_PORT = 1234, 5678
BUFFER_BYTES = 65536


class Packet(NamedTuple):
    """A packet: the fields of its header but for its length, and its data."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    type: int
    op: int
    flags: int
    buf_alloc: int
    fwd_cnt: int
    data: bytes = b""

    @classmethod
    def of(cls, raw: bytes) -> "Packet":
        """Read what the device wrote; fails when its length is not that of its data."""
        fields = struct.unpack_from("<QQIIIHHIII", raw)
        assert fields[4] == len(raw) - 44, "len differs from the data"
        return cls._make([*fields[:4], *fields[5:], raw[44:]])


class Host:
    """What the host does at one end: takes up to ``room`` bytes, and notes all that it hears."""

    def __init__(self, connection: VsockConnection) -> None:
        self.connection = connection
        self.room = 1 << 40
        self.received: list[bytes] = []
        self.heard: list[str] = []
        connection.on_data = self._take
        connection.on_open = lambda: self.heard.append("open")
        connection.on_space = lambda: self.heard.append("space")
        connection.on_end = lambda: self.heard.append("end")
        connection.on_close = lambda: self.heard.append("close")

    def _take(self, data: bytes) -> int:
        taken = data[: self.room]
        if taken or not data:
            self.received.append(taken)
        self.room -= len(taken)
        return len(taken)

    def make_room(self, room: int = 1 << 40) -> None:
        """Take up to ``room`` bytes more."""
        self.room = room
        self.connection.resume()


class VsockRig(Rig):
    """A live socket device, whose driver has given no buffer yet.

    ``hosts`` are the ends of the connections that the guest asked for; those to ``HOST_PORT`` are
    accepted at once. The driver's buffers for packets have ``buffer_bytes``.
    """

    def __init__(
        self,
        form: Form = SPLIT,
        features: int = F_STREAM | F_SEQPACKET,
        *,
        size: int = 64,
        buffer_bytes: int = 4096,
    ) -> None:
        self.buffer_bytes = buffer_bytes
        self.vsock = Vsock(GUEST_CID, ring_features=EVERY_RING)
        self.vsock.on_request = self._request
        self.hosts: list[Host] = []
        super().__init__(self.vsock)
        self.start(features, form, size=size)

    def _request(self, connection: VsockConnection) -> None:
        self.hosts.append(Host(connection))
        if connection.host_port == HOST_PORT:
            connection.accept()
        else:
            connection.close()

    def settle(self) -> None:
        """Let the device do all that it can do now."""
        self.serve()
        while self.loop.advance():
            self.serve()

    def send(self, op: int, data: bytes = b"", **fields: Any) -> None:
        """Send a packet of the guest; fields differ from the ordinary where they are given."""
        self.put(packet(op, data, **fields))

    def put(self, *raw: bytes) -> None:
        """Send anything, a chain each; it comes back with nothing written."""
        for one in raw:
            self.add(TX, ((one,), ()))
        self.settle()
        assert all(used.length == 0 for used in self.rings[TX].collect())

    def heard(self) -> list[Packet]:
        """Give buffers, up to 32, and return the packets that came in them."""
        for _ in range(32 - self.rings[RX].in_flight):
            self.add(RX, ((), (self.buffer_bytes,)))
        self.settle()
        return [Packet.of(one.data[: one.length]) for one in self.rings[RX].collect()]

    def ops(self) -> list[int]:
        """Return the ops of the packets that come."""
        return [one.op for one in self.heard()]

    def connect(self, **fields: Any) -> Host:
        """Open a connection from the guest, and return the host's end."""
        self.send(REQUEST, **fields)
        assert self.ops() == [RESPONSE]
        return self.hosts[-1]


def packet(op: int, data: bytes = b"", **fields: Any) -> bytes:
    """Return a packet of the guest to ``HOST_PORT``."""
    ordinary = {
        "src_cid": GUEST_CID,
        "dst_cid": HOST_CID,
        "src_port": GUEST_PORT,
        "dst_port": HOST_PORT,
        "len": len(data),
        "type": STREAM,
        "op": op,
        "flags": 0,
        "buf_alloc": 1 << 18,
        "fwd_cnt": 0,
    }
    assert fields.keys() <= ordinary.keys()
    return struct.pack("<QQIIIHHIII", *(ordinary | fields).values()) + data
