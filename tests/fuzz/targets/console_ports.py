"""Fuzz the console with what a driver and a host may do: buffers, messages, openings, snapshots.

Input: 1 byte of features refused, 32 steps of 6 bytes (operation, queue or port, two numbers), then
the content of guest memory from address 0 on. After each step: every buffer that came back was
given, in turn and with a legal length; only writable parts were written; messages and bytes that
wait are bounded; a closed port gets no output.
"""

import struct
from collections.abc import Iterator

from tests.fuzz.targets import assert_one_line
from tests.fuzz.targets.devices import EVERY_RING_FEATURE
from tests.fuzz.targets.ram import FuzzRam
from virtio.console import Console, ConsolePort
from virtio.device.lifecycle import Activation
from virtio.errors import DriverError
from virtio.testing import ManualLoop
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.state import QueueLayout

STEP = struct.Struct("<BBHH")
STEPS_MAX = 32
SCRIPT_END = 1 + STEPS_MAX * STEP.size
OUT, IN, BOTH, SAY, SEND, ROOM, OPEN, CLOSE, RESIZE, REMOVE, ADD, RESTORE, EMERGENCY = range(13)

PORTS, QUEUES, ENTRIES, BUFFER_BYTES = 3, 8, 32, 600
CONTROL_TX = 3
# The rings stand apart from what the buffers can reach; messages have a place of their own.
RINGS, MESSAGE = 1 << 32, 0xFF8
RAM = FuzzRam((0, 0x1000), (RINGS, QUEUES * 0x400))


def layout(index: int) -> QueueLayout:
    """Return where a queue lies."""
    base = RINGS + 0x400 * index
    return QueueLayout(ENTRIES, base, base + 0x200, base + 0x280)


class Host:
    """The host's end of a port, with room for so many bytes."""

    def __init__(self) -> None:
        self.port = ConsolePort("fuzz", console=True, buffer_bytes=BUFFER_BYTES)
        self.room = 1 << 20
        self.port.on_data = self._take

    def _take(self, data: bytes) -> int:
        assert data, "output of no bytes"
        assert self.port.host_open, "output for a closed port"
        taken = min(len(data), self.room)
        self.room -= taken
        return taken


class Bay:
    """A live console, and the driver's side of its queues."""

    def __init__(self, refused: int) -> None:
        self.hosts = [Host() for _ in range(PORTS - 1)]
        self.device = self._make()
        self.features = self.device.device_features & ~(refused | 1 << 34) | 1 << 32
        self.given: list[list[tuple[int, int]]] = [[] for _ in range(QUEUES)]
        self.entries = [0] * QUEUES
        self.writable: list[tuple[int, int]] = []
        self.loop = ManualLoop()
        self.device.negotiated(self.features)
        count = QUEUES if self.features & 2 else 2
        self._go_live([Queue(RAM.memory, layout(n), self.features, index=n) for n in range(count)])

    def _make(self) -> Console:
        ports = [host.port for host in self.hosts]
        return Console(ports, max_ports=PORTS, ring_features=EVERY_RING_FEATURE)

    def _go_live(self, queues: list[Queue | None]) -> None:
        self.queues = queues
        activation = Activation(RAM.memory, self.features, queues, lambda: None, self.loop)
        self.device.activate(activation)

    def step(self, operation: int, where: int, a: int, b: int) -> None:
        """Do one step, let the device do all it can, and check what it made of it."""
        self.writable += self._do(operation % 13, where, a, b)
        before = RAM.snapshot()
        for _ in range(400):
            more = any(self.device.handle_queue(index) for index in range(QUEUES))
            if not self.loop.advance() and not more:
                break
        else:
            raise AssertionError("the device does not come to rest")
        RAM.assert_kept(before, [*self.writable, *map(used_area, range(QUEUES))])
        for index in range(len(self.queues)):
            self._check_used(index)
        assert len(self.device._dialogue.outbox) <= 7 * PORTS
        for host in self.hosts:
            assert len(host.port._waiting) <= BUFFER_BYTES, "too much waits"

    def _do(self, operation: int, where: int, a: int, b: int) -> Iterator[tuple[int, int]]:
        """Do what the step says; returns where the device may write from now on."""
        index, address, length = where % len(self.queues), a & 0xFFF, b & 0x3FF
        if operation == SAY and len(self.queues) > CONTROL_TX:
            header = struct.pack("<IHH", where, a & 15, b)
            at = RAM.offset_of(MESSAGE)
            RAM.content[at : at + 8] = header
            self._give(CONTROL_TX, [(MESSAGE, 8, False)])
        elif operation == OUT:
            self._give(index, [(address, length, False)])
        elif operation == IN:
            yield from self._give(index, [(address, length, True)])
        elif operation == BOTH:
            yield from self._give(index, [(address, length, False), (address, length, True)])
        elif operation == RESTORE:
            self._restore()
        elif operation == EMERGENCY:
            self.device.write_config(where & 15, bytes([1, 2, 3, 4]))
        elif operation == ADD and len(self.hosts) < PORTS:
            self.hosts.append(Host())
            self.device.add_port(self.hosts[-1].port)
        elif self.hosts:
            self._at_host(operation, self.hosts[where % len(self.hosts)], a, b)

    def _at_host(self, operation: int, host: Host, a: int, b: int) -> None:
        if operation == SEND:
            assert 0 <= host.port.send(bytes(a & 0x3FF)) <= a & 0x3FF
        elif operation == ROOM:
            host.room = a
            host.port.resume()
        elif operation == OPEN:
            host.port.open()
        elif operation == CLOSE:
            host.port.close()
        elif operation == RESIZE:
            self.device.resize(a, b, self._number(host))
        elif operation == REMOVE:
            self.device.remove_port(self._number(host))
            self.hosts.remove(host)

    def _number(self, host: Host) -> int:
        return next(n for n, port in self.device._ports.items() if port is host.port)

    def _give(self, index: int, chain: list[tuple[int, int, bool]]) -> list[tuple[int, int]]:
        first, number = self.entries[index], len(self.given[index])
        if first + len(chain) > ENTRIES:
            return []
        at = layout(index)
        table, available = RAM.offset_of(at.descriptor_area), RAM.offset_of(at.driver_area)
        for entry, (address, length, writable) in enumerate(chain, first):
            flags = 2 * writable | (entry + 1 < first + len(chain))
            struct.pack_into(
                "<QIHH", RAM.content, table + 16 * entry, address, length, flags, entry + 1
            )
        struct.pack_into("<H", RAM.content, available + 4 + 2 * number, first)
        struct.pack_into("<H", RAM.content, available + 2, number + 1)
        self.entries[index] += len(chain)
        places = [(address, size) for address, size, writable in chain if writable]
        self.given[index].append((first, sum(size for _, size in places)))
        inside = [(at, size) for at, size in places if size and at + size <= 0x1000]
        return [(RAM.offset_of(at), RAM.offset_of(at) + size) for at, size in inside]

    def _check_used(self, index: int) -> None:
        at = used_area(index)[0]
        (count,) = struct.unpack_from("<H", RAM.content, at + 2)
        assert count <= len(self.given[index]), "more came back than was given"
        for number in range(count):
            head, length = struct.unpack_from("<II", RAM.content, at + 4 + 8 * number)
            first, room = self.given[index][number]
            assert head == first, "another chain came back"
            assert length <= (0 if index in (1, 3, 5, 7) else room)

    def _restore(self) -> None:
        state = self.device.state()
        queues = [queue.state() for queue in self.queues if queue is not None]
        self.device.reset()
        for queue in self.queues:
            if queue is not None:
                queue.reset()
        self.loop.forget()
        self.hosts = [Host() for _ in self.hosts]
        self.device = self._make()
        self.device.negotiated(self.features)
        self.device.restore(state)
        self._go_live([Queue.from_state(RAM.memory, one) for one in queues])


def used_area(index: int) -> tuple[int, int]:
    """Return where the device may write in the rings of a queue, as offsets into RAM."""
    at = RAM.offset_of(layout(index).device_area)
    return at, at + 4 + 8 * ENTRIES + 2


def one_input(data: bytes) -> None:
    """Run one input."""
    if not data:
        return
    RAM.load(data[SCRIPT_END:])
    bay = Bay(data[0] & 7)
    script = data[1:SCRIPT_END]
    try:
        for step in STEP.iter_unpack(script[: len(script) // STEP.size * STEP.size]):
            bay.step(*step)
    except DriverError as error:
        assert_one_line(error)
    RAM.assert_canaries()
