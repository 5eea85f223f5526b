"""The console device: ports over queues. VIRTIO 1.4 "Console Device".

Device code runs under the work lock of the transport, while ports are used from any thread. So a
port has a lock of its own over its few values, which no callback is made under; what a host thread
changes there it only announces, by a ring of the bell, and the device comes and looks
(:meth:`Console._attend`). It compares what the guest was told with what there is: nothing of it is
queued on the way, and nothing grows, however often a host thread changes its mind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from virtio.console.control import Message
from virtio.console.dialogue import Dialogue
from virtio.console.port import ConsolePort
from virtio.console.saved import check_console_state
from virtio.console.stream import Stream
from virtio.device.declaration import (
    DEFAULT_RING_FEATURES,
    Device,
    QueueKind,
    feature,
    field,
    queue,
)
from virtio.device.doorbell import Doorbell
from virtio.errors import ConfigurationError

if TYPE_CHECKING:
    from virtio.device.lifecycle import Activation
    from virtio.virtqueue.chain import DescriptorChain
    from virtio.virtqueue.queue import Queue

QUEUE_SIZE: Final = 128
CONTROL_QUEUE_SIZE: Final = 32
CONTROL_RECEIVEQ: Final = 2
MAX_PORTS: Final = 64
MAX_CELLS: Final = 0xFFFF


def receiveq_of(port: int) -> int:
    """Return the index of the queue to the guest; that from the guest is the next."""
    return 2 * port + 2 if port else 0


class Console(Device):
    """Up to ``max_ports`` ports (1-64), of which ``ports`` are there from the start, from 0 on.

    A driver without MULTIPORT sees port 0 alone; its two ends are open while it is live.
    ``columns`` and ``rows`` are the size in characters that every console begins with.
    ``on_emergency_write`` gets each byte that a driver writes to ``emerg_wr``, in any state of the
    device; by default that is ``on_data`` of port 0. Raises :class:`ConfigurationError` for what
    cannot be.
    """

    device_id = 3
    in_order = True

    VIRTIO_CONSOLE_F_SIZE = feature(0)
    VIRTIO_CONSOLE_F_MULTIPORT = feature(1)
    VIRTIO_CONSOLE_F_EMERG_WRITE = feature(2)

    cols = field("u16", 0x00, feature=VIRTIO_CONSOLE_F_SIZE)
    rows = field("u16", 0x02, feature=VIRTIO_CONSOLE_F_SIZE)
    max_nr_ports = field("u32", 0x04, feature=VIRTIO_CONSOLE_F_MULTIPORT)
    emerg_wr = field("u32", 0x08, feature=VIRTIO_CONSOLE_F_EMERG_WRITE)

    def __init__(
        self,
        ports: Sequence[ConsolePort] = (),
        *,
        columns: int = 80,
        rows: int = 25,
        max_ports: int = 16,
        ring_features: int = DEFAULT_RING_FEATURES,
    ) -> None:
        super().__init__(ring_features=ring_features)
        self.max_nr_ports = _port_count(max_ports)
        self.cols, self.rows = _size(columns, rows)
        self.on_emergency_write: Callable[[bytes], object] = self._emergency_to_port_0
        self._port_bell = Doorbell(self._attend)
        # Replaced as a whole, under the lock, so that it is read without.
        self._ports: dict[int, ConsolePort] = {}
        self._ports_lock = threading.Lock()
        # What belongs to the driver, and ends with it.
        self._dialogue = Dialogue()
        self._streams: dict[int, Stream] = {}
        for port in ports:
            self.add_port(port)

    # The host's side, from any thread

    def add_port(self, port: ConsolePort) -> int:
        """Add a port, and tell the guest; returns its number, the lowest that is free.

        Raises :class:`ConfigurationError` when all are taken, or when it is in a console already.
        """
        with self._ports_lock:
            free = [n for n in range(self.max_nr_ports) if n not in self._ports]
            if not free:
                raise ConfigurationError(f"console with {self.max_nr_ports} ports: no more fit in")
            number = free[0]
            port.attach(partial(self._port_bell.ring, number), (self.cols, self.rows))
            self._ports = {**self._ports, number: port}
        self._port_bell.ring(number)
        return number

    def remove_port(self, port: int) -> None:
        """Take a port away from the guest, by its number; it may be added again.

        Raises :class:`ConfigurationError` when there is none.
        """
        with self._ports_lock:
            gone = self._port(port)
            self._ports = {n: one for n, one in self._ports.items() if n != port}
        gone.detach()
        self._port_bell.ring(port)

    def resize(self, columns: int, rows: int, port: int = 0) -> None:
        """Give a console another size, in characters, and tell the guest (``CON-12``).

        Raises :class:`ConfigurationError` when there is no such port, or size.
        """
        size = _size(columns, rows)
        self._port(port).resize(size)
        if port == 0:
            self.assign_all({"cols": columns, "rows": rows})

    def _port(self, number: int) -> ConsolePort:
        if number not in self._ports:
            raise ConfigurationError(f"console port {number}: there are {sorted(self._ports)}")
        return self._ports[number]

    # Queues

    def queue_layout(self, features: int) -> list[tuple[QueueKind, int]]:
        """Return the queues of port 0, then those for control, then those of the other ports."""
        kinds = self.queue_kinds
        layout = [(kinds["receiveq"], 0), (kinds["transmitq"], 0)]
        if features & type(self).VIRTIO_CONSOLE_F_MULTIPORT.mask:
            layout += [(kinds["control_receiveq"], 0), (kinds["control_transmitq"], 0)]
            for number in range(1, self.max_nr_ports):
                layout += [(kinds["receiveq"], number), (kinds["transmitq"], number)]
        return layout

    @queue(size=QUEUE_SIZE, count="max_nr_ports", fill="_bytes_wait")
    def receiveq(self, chain: DescriptorChain, number: int) -> int | None:
        """Fill a buffer with the bytes at hand (``CON-10``)."""
        port, room = self._ports.get(number), chain.writable_length
        data = b"" if port is None else port.take(room)
        return chain.write(data) if data or not room else None

    def _bytes_wait(self, number: int) -> int:
        port = self._ports.get(number)
        return 0 if port is None else port.buffers_wanted

    @queue(size=QUEUE_SIZE, count="max_nr_ports", manual=True)
    def transmitq(self, queue: Queue, number: int) -> bool:
        """Hand output to the host; nothing more is taken while the host is full (``CON-11``)."""
        queue.disable_notification()
        port = self._ports.get(number)
        stream = self._streams.setdefault(number, Stream(port))
        stream.meet(port)
        try:
            more = stream.drain(queue)
        finally:
            queue.notify()
        return more or (stream.chain is None and queue.enable_notification())

    @queue(size=CONTROL_QUEUE_SIZE, feature=VIRTIO_CONSOLE_F_MULTIPORT, fill="_messages_wait")
    def control_receiveq(self, chain: DescriptorChain) -> int | None:
        """Send the message that waits first; a buffer that is too small for it comes back empty."""
        outbox = self._dialogue.outbox
        if not outbox:
            return None
        data = outbox.first()
        if len(data) > chain.writable_length:
            return 0
        outbox.drop_first()
        return chain.write(data)

    def _messages_wait(self) -> int:
        return len(self._dialogue.outbox)

    @queue(size=CONTROL_QUEUE_SIZE, feature=VIRTIO_CONSOLE_F_MULTIPORT, batch=True)
    def control_transmitq(self, chains: list[DescriptorChain]) -> list[int | None]:
        """Do what the driver says, and answer; what makes no sense is ignored (``CON-07``)."""
        concerned: set[int] = set()
        for chain in chains:
            message = Message.parse(chain.read(8))
            if message is not None:
                self._announce(message.port)
                concerned |= self._dialogue.take(message, self._ports)
        self._attend(concerned)
        return [0] * len(chains)

    # What is due

    def _attend(self, numbers: Iterable[int]) -> None:
        """Do for some ports all that is due, a burst of it, and come again for the rest."""
        unfinished = set()
        for number in numbers:
            self._announce(number)
            index = receiveq_of(number)
            more = self.handle_queue(index)
            if number in self._streams and self._streams[number].chain is not None:
                more |= self.handle_queue(index + 1)
            if more:
                unfinished.add(number)
        if self.handle_queue(CONTROL_RECEIVEQ):
            unfinished.add(0)
        for number in unfinished:
            self._port_bell.ring(number)

    def _announce(self, number: int) -> None:
        """See to it that the driver is told what it does not know of a port yet."""
        port = self._ports.get(number)
        if self.VIRTIO_CONSOLE_F_MULTIPORT:
            self._dialogue.update(number, port)
        elif number == 0 and port is not None and self.activation is not None:
            port.set_guest_open(True)

    # Emergency writes

    def write_config(self, offset: int, data: bytes) -> None:
        """Take the low byte of ``emerg_wr``, in any state (``CON-01``); drop everything else."""
        at = type(self).emerg_wr.offset - offset
        if 0 <= at < len(data):
            self.on_emergency_write(data[at : at + 1])

    def _emergency_to_port_0(self, data: bytes) -> None:
        port = self._ports.get(0)
        if port is not None and port.host_open and port.on_data is not None:
            port.on_data(data)

    # Life, reset and state

    def activate(self, activation: Activation) -> None:
        """Go live: without MULTIPORT, that opens the guest's end of port 0."""
        super().activate(activation)
        self._port_bell.connect(activation.loop)
        self._dialogue.tells_size = self.VIRTIO_CONSOLE_F_SIZE
        for number in self._ports:
            self._announce(number)

    def disable_queue(self, index: int) -> None:
        """Let go of the output in hand."""
        if index < len(self._handlers) and self._handlers[index].kind.name == "transmitq":
            self._streams.pop(self._handlers[index].number, None)
        super().disable_queue(index)

    def reset(self) -> None:
        """Forget what driver and device told each other, and what the guest has not taken."""
        was_live = self.activation is not None
        self._port_bell.connect(None)
        super().reset()
        self._dialogue, self._streams = Dialogue(), {}
        for port in self._ports.values() if was_live else ():
            port.forget_guest()

    def state(self) -> dict[str, Any]:
        """Return what the driver knows and what is under way, between it and the host's ends."""
        for number in range(self.max_nr_ports):
            self._announce(number)
        for number, stream in self._streams.items():
            stream.meet(self._ports.get(number))
        return super().state() | {
            "ports": tuple((n, self._ports[n].state()) for n in sorted(self._ports)),
            "dialogue": self._dialogue.state(),
            "offsets": tuple((n, stream.offset) for n, stream in self._streams.items()),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take them over; the ports get the numbers that those saved had, in order.

        Raises :class:`ConfigurationError` unless there are as many, and the rest is possible.
        """
        check_console_state(state, self._ports, self.max_nr_ports)
        saved = state["ports"]
        super().restore(state)
        with self._ports_lock:
            ends = [self._ports[number] for number in sorted(self._ports)]
            self._ports = {n: end for (n, _), end in zip(saved, ends, strict=True)}
        self._dialogue.restore(state["dialogue"], self._ports)
        self._streams = {n: Stream(self._ports.get(n), at) for n, at in state["offsets"]}
        for number, values in saved:
            self._ports[number].restore(values, partial(self._port_bell.ring, number))


def _port_count(count: int) -> int:
    if not 1 <= count <= MAX_PORTS:
        raise ConfigurationError(f"console with {count} ports: 1 to {MAX_PORTS} are allowed")
    return count


def _size(columns: int, rows: int) -> tuple[int, int]:
    if not (0 <= columns <= MAX_CELLS and 0 <= rows <= MAX_CELLS):
        raise ConfigurationError(
            f"console of {columns} columns, {rows} rows: 0 to {MAX_CELLS} are allowed"
        )
    return columns, rows
