"""Fuzz the registers of a virtio-mmio device: a driver that keeps no order whatever.

Input: a byte that chooses the device, 24 steps of 6 bytes (what, argument, 32-bit value), then the
content of guest memory from address 0 on. After each step: no exception came out, the status is
legal, no interrupt came before DRIVER_OK, nothing was written before it or outside RAM, and the
device failed for no other reason than its driver.
"""

import pickle
import struct

from tests.fuzz.targets import assert_one_line
from tests.fuzz.targets.devices import EVERY_RING_FEATURE, Medium, Sampler, disk
from tests.fuzz.targets.ram import FuzzRam
from transport.mmio.registers import VirtioMmio
from virtio.device.lifecycle import VirtioDevice
from virtio.entropy import Entropy
from virtio.errors import DriverError
from virtio.testing import ManualLoop

STEP = struct.Struct("<BBI")
STEPS_MAX = 24
SCRIPT_END = 1 + STEP.size * STEPS_MAX
PROGRESS = (0, 0x01, 0x03, 0x0B, 0x0F)
DRIVER_OK = 0x04
WIDTHS = (1, 2, 4, 8, 3, 0)
REGISTERS = (
    *(0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70),
    *(0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4, 0xAC, 0xC0),
)
READABLE = (0x00, 0x04, 0x08, 0x0C, 0x10, 0x34, 0x44, 0x60, 0x70, 0xB0, 0xBC, 0xC0, 0xFC)

RAM = FuzzRam((0, 0xC00), (1 << 32, 0x100))


class Port:
    """A device on its transport, made once and put back by the driver's own means: a reset."""

    def __init__(self, device: VirtioDevice, medium: Medium | None = None) -> None:
        self.medium = medium
        self.loop = ManualLoop()
        self.transport = VirtioMmio(device, RAM.memory, self, self.loop)
        self.transport.report.failed = self._failed  # type: ignore[method-assign]
        self.failure: Exception | None = None
        self.pristine = self.transport.state()
        self.steps = (
            *(self.write_register, self.write_register, self.write_anything, self.read),
            *(self.read_config, self.write_config, self.serve, self.store),
            *(self.negotiate, self.set_up_queue, self.restore, self.set_status),
        )

    # The interrupt line

    def raise_(self) -> None:
        """Check that the device is live."""
        assert self.transport.status & DRIVER_OK, "an interrupt before DRIVER_OK"

    def lower(self) -> None:
        """Take it back."""

    # One input

    def run(self, data: bytes) -> None:
        """Run one input from the state at power-on."""
        self.put_back()
        RAM.load(data[SCRIPT_END:])
        script = data[1:SCRIPT_END]
        for what, argument, value in STEP.iter_unpack(script[: len(script) // 6 * 6]):
            before = RAM.content[:]
            live = self.transport.status & DRIVER_OK
            step = self.steps[what % len(self.steps)]
            step(argument, value)
            if not (live | self.transport.status & DRIVER_OK) and step != self.store:
                assert RAM.content == before, "guest memory changed before DRIVER_OK"
            self.check()
        RAM.assert_canaries()

    def put_back(self) -> None:
        """Reset, and check that a reset leaves nothing behind."""
        self.failure = None
        self._write(0x70, 0)
        if self.medium is not None:
            self.medium.put_back()
        self.loop.forget()
        state = self.transport.state()
        assert state.status == state.interrupts["status"] == state.queue_select == 0
        assert (state.features, state.queues) == (self.pristine.features, self.pristine.queues)
        self.transport.device.restore(self.pristine.device)

    def check(self) -> None:
        """Check what must hold between any two accesses."""
        status = self._read(0x70)
        assert status & 0x3F in PROGRESS, f"status {status:#x}"
        assert self._read(0x60) < 4
        if self.failure is not None and not isinstance(self.failure, DriverError):
            raise self.failure
        assert self.failure is None or status & 0x40 or status & 0x80 or status == 0

    # Steps

    def write_register(self, argument: int, value: int) -> None:
        """Write a register that there is."""
        self._write(REGISTERS[argument % len(REGISTERS)], value)
        self.failure = None if self.transport.status == 0 else self.failure

    def write_anything(self, argument: int, value: int) -> None:
        """Write somewhere, in some width."""
        width = WIDTHS[value % 6]
        self.transport.write(argument << 2 | value >> 30, value.to_bytes(8, "little")[:width])
        self.failure = None if self.transport.status == 0 else self.failure

    def read(self, argument: int, value: int) -> None:
        """Read a register that there is, and one in a wrong width."""
        self._read(READABLE[argument % len(READABLE)])
        assert self.transport.read(argument & 0xFC, 2) == b"\0\0"

    def read_config(self, argument: int, value: int) -> None:
        """Read configuration space."""
        width = WIDTHS[value % 6]
        assert len(self.transport.read(0x100 + argument, width)) == width

    def write_config(self, argument: int, value: int) -> None:
        """Write configuration space."""
        width = WIDTHS[argument >> 6]
        self.transport.write(0x100 + (argument & 0x3F), value.to_bytes(8, "little")[:width])

    def serve(self, argument: int, value: int) -> None:
        """Let the device work."""
        self.transport.service()
        for _ in range(argument % 4):
            self.loop.advance()

    def store(self, argument: int, value: int) -> None:
        """Store 32 bits in the first KiB."""
        RAM.memory.view(4 * argument, 4)[:] = value.to_bytes(4, "little")

    def negotiate(self, argument: int, value: int) -> None:
        """Introduce a driver, up to FEATURES_OK: offered features, less those in ``value``."""
        offered = self.transport.negotiation.offered
        features = offered & ~(value & 0xFF | (value >> 8 & 0xFFFF) << 28) | 1 << 32
        self._write(0x70, 0)
        self.failure = None
        self._write(0x70, 1)
        self._write(0x70, 3)
        for word in range(2):
            self._write(0x24, word)
            self._write(0x20, features >> 32 * word & 0xFFFF_FFFF)
        self._write(0x70, 0x0B)

    def set_up_queue(self, argument: int, value: int) -> None:
        """Enable a queue with rings at the places in ``value``, by default one after another."""
        self._write(0x30, argument & 1)
        self._write(0x38, 1 << (argument >> 1 & 3))
        places = [value >> shift & 0x3FF for shift in (0, 10, 20)] if value else [0, 0x40, 0x80]
        for register, place in zip((0x80, 0x90, 0xA0), places, strict=True):
            self._write(register, place << 2)
            self._write(register + 4, 0)
        self._write(0x44, 1)

    def set_status(self, argument: int, value: int) -> None:
        """Write the next status, or any."""
        self._write(0x70, PROGRESS[argument % 5] if argument < 0xF0 else value)
        self.failure = None if self.transport.status == 0 else self.failure

    def restore(self, argument: int, value: int) -> None:
        """Save the state, lose everything, and go on from what was saved."""
        state = self.transport.state()
        self._write(0x70, 0)
        self.transport.restore(pickle.loads(pickle.dumps(state)))
        assert self.transport.state() == state, "a restored transport differs from the saved one"

    # Helpers

    def _read(self, offset: int) -> int:
        data = self.transport.read(offset, 4)
        assert len(data) == 4
        return int.from_bytes(data, "little")

    def _write(self, offset: int, value: int) -> None:
        self.transport.write(offset, value.to_bytes(4, "little"))

    def _failed(self, error: Exception, situation: str) -> None:
        if isinstance(error, DriverError):
            assert_one_line(error)
        self.failure = error


def _ports() -> list[Port]:
    medium = Medium()
    entropy = Entropy(source=lambda length: b"r" * length, ring_features=EVERY_RING_FEATURE)
    return [Port(Sampler()), Port(entropy), Port(disk(medium, queues=2), medium)]


PORTS = _ports()


def one_input(data: bytes) -> None:
    """Run one input."""
    if data:
        PORTS[data[0] % len(PORTS)].run(data)
