"""The socket device. VIRTIO 1.4 "Socket Device"."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from virtio.device.declaration import DEFAULT_RING_FEATURES, Device, feature, field, queue
from virtio.device.doorbell import Doorbell
from virtio.device.handlers import TURN_NS
from virtio.errors import ConfigurationError
from virtio.saved import U32, checked
from virtio.vsock.connection import BUFFER_BYTES, Key, VsockConnection
from virtio.vsock.packet import (
    HEADER,
    HOST_CID,
    OP_REQUEST,
    OP_RST,
    OP_RW,
    SEQPACKET,
    STREAM,
    Header,
)

if TYPE_CHECKING:
    from virtio.device.lifecycle import Activation, EventLoop, TimerHandle
    from virtio.virtqueue.chain import DescriptorChain
    from virtio.virtqueue.queue import Queue

QUEUE_SIZE: Final = 128
BURST: Final = 64
TURN_BYTES: Final = 256 * 1024

MAX_CONNECTIONS: Final = 1023
"""With the buffers of both directions that is 128 MiB, which a guest could make the host hold."""

MAX_REFUSALS: Final = 256
"""The most RST packets that wait for the guest to take them; then it is not listened to."""

FIRST_HOST_PORT: Final = 1 << 30
LAST_HOST_PORT: Final = 0xFFFF_FFFE
CLOSE_SECONDS: Final = 8.0

TRANSPORT_RESET: Final = bytes(4)

MIN_CID: Final = 3
MAX_CID: Final = 0xFFFF_FFFE

Accept = Callable[[VsockConnection], object]


class Vsock(Device):
    """Sockets between the host, CID 2, and the guest, whose CID is ``guest_cid`` (``VSK-01``).

    ``on_request(connection)`` is asked about each connection that the guest wants; it answers, then
    or later, with ``connection.accept()`` or ``connection.close()``, and is asked of none that the
    device itself refuses. ``on_live(loop)`` is called when the driver is there; until it is reset,
    :meth:`connect` and everything of a connection belong to the thread of that loop, and
    :meth:`call` brings them there. Raises :class:`ConfigurationError` for a CID that no guest may
    have.
    """

    device_id = 19
    in_order = True

    VIRTIO_VSOCK_F_STREAM = feature(0)
    VIRTIO_VSOCK_F_SEQPACKET = feature(1)
    VIRTIO_VSOCK_F_NO_IMPLIED_STREAM = feature(2)

    guest_cid = field("u64", 0x00)

    def __init__(self, guest_cid: int = 3, *, ring_features: int = DEFAULT_RING_FEATURES) -> None:
        super().__init__(ring_features=ring_features)
        self.guest_cid = _guest_cid(guest_cid)
        self.on_request: Accept = VsockConnection.close
        self.on_live: Callable[[EventLoop], object] = bool
        self._calls: deque[Callable[[], object]] = deque()
        self._calls_bell = Doorbell(self._make_calls)
        self._next_port = FIRST_HOST_PORT
        self._connections: dict[Key, VsockConnection] = {}
        self._ready: dict[VsockConnection, None] = {}  # those with a packet to send, in turn
        self._ending: dict[VsockConnection, TimerHandle] = {}
        self._refusals: deque[bytes] = deque()
        self._is_paused = False
        self._reset_is_news = False

    # The host's side

    def call(self, action: Callable[[], object]) -> None:
        """Have something done on the device's loop, when the driver is there; from any thread."""
        self._calls.append(action)
        self._calls_bell.ring(0)

    def _make_calls(self, _: set[int]) -> None:
        while self._calls:
            self._calls.popleft()()

    def connect(self, guest_port: int, *, kind: int = STREAM) -> VsockConnection:
        """Ask the guest for a connection to one of its ports; ``on_open`` tells of its answer.

        Raises :class:`ConfigurationError` when the driver knows no such sockets, or when there are
        as many connections as may be.
        """
        if not self._speaks(kind):
            raise ConfigurationError(f"the guest's driver knows no sockets of type {kind}")
        if len(self._connections) >= MAX_CONNECTIONS:
            raise ConfigurationError(f"{MAX_CONNECTIONS} connections are open: no more are allowed")
        while (kind, self._next_port, guest_port) in self._connections:
            self._step_port()
        connection = self._add((kind, self._next_port, guest_port))
        self._step_port()
        connection.request()
        return connection

    def _step_port(self) -> None:
        at_end = self._next_port >= LAST_HOST_PORT
        self._next_port = FIRST_HOST_PORT if at_end else self._next_port + 1

    def _add(self, key: Key) -> VsockConnection:
        connection = VsockConnection(*key, self._has_packet, self._expect_end_of)
        self._connections[key] = connection
        return connection

    def _has_packet(self, connection: VsockConnection) -> None:
        self._ready[connection] = None
        self.fill("rx")

    def _speaks(self, kind: int) -> bool:
        """Whether the driver accepted sockets of this type (``VSK-02``)."""
        if kind == SEQPACKET:
            return self.VIRTIO_VSOCK_F_SEQPACKET
        implied = not self.VIRTIO_VSOCK_F_NO_IMPLIED_STREAM
        return kind == STREAM and (self.VIRTIO_VSOCK_F_STREAM or implied)

    # Queues

    @queue(size=QUEUE_SIZE, fill="_packets_wait")
    def rx(self, chain: DescriptorChain) -> int | None:
        """Send the guest a packet; connections that have some take turns."""
        room = chain.writable_length - HEADER.size
        if room <= 0:  # no packet fits into such a buffer
            return 0 if self._packets_wait() else None
        if self._refusals:
            packet = self._refusals.popleft()
            if self._is_paused:
                self.fill("tx")
            return chain.write(packet)
        while self._ready:
            connection = next(iter(self._ready))
            del self._ready[connection]
            packet_and_data = connection.next_packet(room, self.guest_cid)
            if connection.is_over:
                self._drop(connection)
            if packet_and_data is None:
                continue
            if not connection.is_over:
                self._ready[connection] = None
            header, data = packet_and_data
            return chain.write(header) + (chain.write(data, HEADER.size) if data else 0)
        return None

    def _packets_wait(self) -> int:
        return len(self._refusals) + len(self._ready)

    @queue(size=QUEUE_SIZE, manual=True)
    def tx(self, queue: Queue) -> bool:
        """Take the guest's packets, unless too many refusals wait for it to read (``VSK-03``)."""
        queue.disable_notification()
        left, end_ns = TURN_BYTES, time.monotonic_ns() + TURN_NS
        try:
            for _ in range(BURST):
                self._is_paused = len(self._refusals) >= MAX_REFUSALS
                if self._is_paused:
                    return False
                chain = queue.pop()
                if chain is None:
                    return queue.enable_notification()
                left -= chain.readable_length
                try:
                    self._take(chain)
                finally:
                    queue.add_used(chain, 0)
                if left <= 0 or time.monotonic_ns() > end_ns:
                    break
        finally:
            queue.notify()
        return True

    @queue(size=QUEUE_SIZE, fill="_events_wait")
    def event(self, chain: DescriptorChain) -> int | None:
        """Tell the guest that all its connections are gone (``VSK-14``)."""
        if not self._reset_is_news or chain.writable_length < len(TRANSPORT_RESET):
            return 0 if self._reset_is_news else None
        self._reset_is_news = False
        return chain.write(TRANSPORT_RESET)

    def _events_wait(self) -> int:
        return int(self._reset_is_news)

    # Packets of the guest

    def _take(self, chain: DescriptorChain) -> None:
        fields = chain.unpack(HEADER) if chain.descriptors else None
        if fields is None:
            return
        header = Header(*fields)
        if header.src_cid != self.guest_cid or header.dst_cid != HOST_CID:
            return  # VSK-06
        key = header.kind, header.dst_port, header.src_port
        connection = self._connections.get(key)
        if header.op == OP_RST:
            if connection is not None:
                connection.forget()
                self._drop(connection)
        elif connection is not None:
            self._hand_over(connection, header, chain)
        elif header.op == OP_REQUEST and self._may_open(header):
            connection = self._add(key)
            connection.meet(header)
            self.on_request(connection)
        else:
            self._refuse(header)

    def _may_open(self, header: Header) -> bool:
        return self._speaks(header.kind) and len(self._connections) < MAX_CONNECTIONS

    def _hand_over(
        self, connection: VsockConnection, header: Header, chain: DescriptorChain
    ) -> None:
        """Give a packet to its connection, which ends by one that it cannot take (``VSK-11``)."""
        data = b""
        if header.op == OP_RW:
            supplied = min(chain.readable_length - HEADER.size, BUFFER_BYTES)
            if header.len > supplied:
                connection.abort()
                return
            data = chain.read(header.len, HEADER.size)
        if not connection.is_closed and not connection.take(header, data):
            connection.abort()

    def _refuse(self, header: Header) -> None:
        """Answer with RST what belongs to no connection (``VSK-04``, ``VSK-05``)."""
        self._refusals.append(
            HEADER.pack(
                *(HOST_CID, self.guest_cid, header.dst_port, header.src_port),
                *(0, header.kind, OP_RST, 0, 0, 0),
            )
        )
        self.fill("rx")

    def _drop(self, connection: VsockConnection) -> None:
        self._connections.pop(connection.key, None)
        self._ready.pop(connection, None)
        if connection in self._ending:
            self._ending.pop(connection).cancel()

    def _expect_end_of(self, connection: VsockConnection) -> None:
        """End it without the guest, when that does not answer in time."""
        self._ending[connection] = self.loop.call_later(CLOSE_SECONDS, connection.abort)

    # Life, reset and state

    def activate(self, activation: Activation) -> None:
        """Go live; what was to be called is called."""
        super().activate(activation)
        self._calls_bell.connect(activation.loop)
        self.on_live(activation.loop)
        self._calls_bell.ring(0)

    def reset(self) -> None:
        """Drop all connections: the driver knows of none any more."""
        self._calls_bell.connect(None)
        super().reset()
        connections = list(self._connections.values())
        self._connections, self._ready, self._ending = {}, {}, {}
        self._refusals.clear()
        self._is_paused = self._reset_is_news = False
        for connection in connections:
            connection.forget()

    def state(self) -> dict[str, Any]:
        """Return what holds for a copy of the machine: its connections end there."""
        live = self.activation is not None
        return super().state() | {"reset_is_news": self._reset_is_news or live}

    def restore(self, state: dict[str, Any]) -> None:
        """Take it over, and tell the guest that its connections are gone (``VSK-14``)."""
        news = checked(bool, "vsock reset_is_news", state["reset_is_news"])
        _guest_cid(checked(U32, "vsock guest_cid", state["config"]["guest_cid"]))
        super().restore(state)
        self._reset_is_news = news


def _guest_cid(cid: int) -> int:
    if not MIN_CID <= cid <= MAX_CID:
        raise ConfigurationError(f"guest CID {cid}: must be {MIN_CID} to {MAX_CID}")
    return cid
