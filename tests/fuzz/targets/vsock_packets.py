"""Fuzz the socket device with what a driver and a host may do: packets, buffers, ends, resets.

Input: 1 byte of features, then up to 64 steps of 8 bytes: operation, port, two numbers. After each
step: no more data was sent than the driver gave credit for, what waits in either direction is
bounded, a connection that is closed is spoken of by no packet but one RST, and the device lives.
"""

import struct
from collections import Counter

from tests.spec.rig import PACKED, SPLIT
from tests.spec.vsk import (
    BUFFER_BYTES,
    CREDIT_REQUEST,
    CREDIT_UPDATE,
    GUEST_CID,
    HOST_PORT,
    REQUEST,
    RESPONSE,
    RST,
    RW,
    SEQPACKET,
    SHUTDOWN,
    STREAM,
    TX,
    Host,
    Packet,
    VsockRig,
    packet,
)
from virtio.errors import ConfigurationError

STEP = struct.Struct("<BBHI")
STEPS_MAX = 64
RAW, SEND, GIVE, CONNECT, TELL, ROOM, END, CLOSE, ABORT, WAIT = range(10)
OPS = (REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST, 0, 99)

Name = tuple[int, int, int]


class Bay(VsockRig):
    """A live device with the credit that its driver gave, by connection."""

    def __init__(self, choice: int) -> None:
        super().__init__(PACKED if choice & 8 else SPLIT, choice & 7)
        self.allowed: dict[Name, int] = {}
        self.sent: Counter[Name] = Counter()

    def _request(self, connection) -> None:  # type: ignore[no-untyped-def]
        super()._request(connection)
        self.begin(self.hosts[-1])

    def begin(self, host: Host) -> None:
        """Count the bytes of a new connection from 0."""
        self.sent[host.connection.key] = 0

    def say(self, op: int, port: int, a: int, b: int) -> None:
        """Send a packet, most of them good ones."""
        kind = SEQPACKET if port & 1 else STREAM
        host_port = self.hosts[port % len(self.hosts)].connection.host_port if self.hosts else 1234
        name = (kind, host_port, port >> 4)
        sent = 0 if op == REQUEST else self.sent[name]
        fwd_cnt = sent - (b & 0xF) if b & 0x10 else b
        before = 0 if op == REQUEST else self.allowed.get(name, 0)
        self.allowed[name] = max(before, a + fwd_cnt if 0 <= sent - fwd_cnt <= a else 0)
        data = bytes(b >> 8 & 0x1FFF) if op == RW else b""
        self.send(
            op,
            data,
            src_port=port >> 4,
            dst_port=host_port,
            type=kind,
            flags=b & 3,
            buf_alloc=a,
            fwd_cnt=fwd_cnt & 0xFFFF_FFFF,
        )

    def read(self) -> None:
        """Take the packets of the device, and compare them with the credit."""
        for one in self.heard():
            name = (one.type, one.src_port, one.dst_port)
            if one.op == RW:
                self.sent[name] += len(one.data)
                assert self.sent[name] <= self.allowed.get(name, 0), "data without credit"
            check(one)

    def at_host(self, operation: int, host: Host, a: int, b: int) -> None:
        """Do what a host may do at any time."""
        connection = host.connection
        if operation == TELL:
            try:
                assert 0 <= connection.send(bytes(a)) <= a
            except ValueError:
                assert connection.kind == SEQPACKET
        elif operation == ROOM:
            host.make_room(b & 0xFFFF)
        elif operation == END:
            connection.end()
        elif operation == CLOSE:
            connection.close()
        elif operation == ABORT:
            connection.abort()

    def check(self) -> None:
        """Look at what is kept."""
        device = self.vsock
        assert self.driver.status == 0x0F, "the device broke"
        assert len(device._connections) <= 1023
        assert len(device._refusals) <= 256
        for host in self.hosts:
            one = host.connection
            assert sum(map(len, one._incoming)) + len(one._message) <= BUFFER_BYTES
            assert sum(map(len, one._outgoing)) == one._outgoing_bytes <= BUFFER_BYTES
            assert host.heard.count("close") == one.is_closed
            assert host.heard.count("end") <= 1


def check(one: Packet) -> None:
    """Look at what every packet must be."""
    assert (one.src_cid, one.dst_cid) == (2, GUEST_CID)
    assert one.op in (REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST)
    assert one.buf_alloc == (0 if one.op == RST and not one.buf_alloc else BUFFER_BYTES)


def one_input(data: bytes) -> None:
    """Run one input."""
    if not data:
        return
    bay = Bay(data[0] & 15)
    script = data[1 : 1 + STEPS_MAX * STEP.size]
    try:
        for operation, port, a, b in STEP.iter_unpack(script[: len(script) // 8 * 8]):
            step(bay, operation % 10, port, a, b)
            bay.check()
    finally:
        bay.close()


def step(bay: Bay, operation: int, port: int, a: int, b: int) -> None:
    """Do one step, and let the device do all it can."""
    if bay.rings[TX].in_flight >= 32:
        bay.read()
    if operation == RAW:
        name = (a >> 8 & 3, HOST_PORT, port >> 4)
        bay.allowed[name] = max(bay.allowed.get(name, 0), 1 << 18)
        header = packet(a & 0xFF, src_port=port >> 4, type=a >> 8 & 3, len=b)
        bay.put(header[: 40 + (b & 15)], header + bytes(b >> 16 & 0xFF))
    elif operation == SEND:
        bay.read()  # what came before this says something else
        bay.say(OPS[b % len(OPS)], port, a, b >> 2)
    elif operation == GIVE:
        bay.read()
    elif operation == WAIT:
        bay.loop.advance(a)
        bay.settle()
    elif operation == CONNECT:
        try:
            bay.hosts.append(Host(bay.vsock.connect(port >> 4, kind=2 if port & 1 else 1)))
        except ConfigurationError:
            return
        bay.begin(bay.hosts[-1])
    elif bay.hosts:
        bay.at_host(operation, bay.hosts[port % len(bay.hosts)], a, b)
        bay.settle()
