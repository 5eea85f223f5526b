"""Fuzz two virtio functions on a PCI bus: configuration space, BARs, MSI-X, and a hostile driver.

Input: 24 steps of 8 bytes (what, which, offset, value), then the content of guest memory from
address 0 on. After each step: no exception came out, ids and status are legal, the line is where
ISR and the masks have it, BARs are seen inside the windows alone, messages went to the interrupt
controller from a live bus master, and memory that no bus master may reach is unchanged.
"""

import pickle
import struct

from tests.fuzz.targets import assert_one_line
from tests.fuzz.targets.devices import Medium, Sampler, disk
from tests.fuzz.targets.ram import FuzzRam
from transport.pci.bus import PciBus
from transport.pci.host_bridge import host_bridge
from transport.pci.registers import VirtioPci
from transport.pci.virtio_function import VirtioFunction
from virtio.device.lifecycle import VirtioDevice
from virtio.errors import DriverError
from virtio.testing import ManualLoop

STEP = struct.Struct("<BBHI")
STEPS_MAX = 24
SCRIPT_END = STEP.size * STEPS_MAX
PROGRESS = (0, 0x01, 0x03, 0x0B, 0x0F)
WIDTHS = (1, 2, 4, 8)
WINDOWS = ((0xC100_0000, 0x2DC0_0000), (0x40_0000_0000, 0x40_0000_0000))
FIELDS = (
    *((0x00, 4), (0x08, 4), (0x0C, 4), (0x10, 2), (0x14, 1), (0x16, 2), (0x18, 2), (0x1A, 2)),
    *((0x1C, 2), (0x20, 4), (0x24, 4), (0x28, 4), (0x30, 8), (0x34, 4), (0x3A, 2)),
)
TABLE = 0x4000
PLACES = (0xC100_0000, 0xC100_8000, 0xD000_0000, 0, 0xEEC0_0000, 0x40_0000_0000, 1 << 63)

RAM = FuzzRam((0, 0xC00), (1 << 32, 0x100))
BUS = PciBus(WINDOWS)


class Function:
    """A function in a slot, made once and put back to what it was at power-on."""

    def __init__(self, slot: int, device: VirtioDevice, medium: Medium | None = None) -> None:
        self.slot = slot
        self.medium = medium
        self.loop = ManualLoop()
        self.level = False
        self.closed = False
        self.attached: set[int] = set()
        self.failure: Exception | None = None
        self.transport = VirtioPci(device, RAM.memory, self, self, self.loop)
        self.transport.report.failed = self._failed  # type: ignore[method-assign]
        self.function = VirtioFunction(self.transport, self)
        self.function.bar.place(WINDOWS[0][0] + slot * 0x8000)
        BUS.add(slot, self.function)
        self.ids = self.function.read_config(0, 4)
        self.pristine = (self.function.state(), self.transport.state())

    # What the function is connected to

    def raise_(self) -> None:
        """Check that the line is told of changes alone."""
        assert not self.level
        self.level = True

    def lower(self) -> None:
        """Check that the line is told of changes alone."""
        assert self.level
        self.level = False

    def send(self, vector: int, address: int, data: int) -> None:
        """Check where a message goes, and whether it may."""
        assert 0xFEE0_0000 <= address <= 0xFEEF_FFFF, f"a message to {address:#x}"
        assert self.function.command & 4, "a message without bus master"
        assert vector < self.transport.msix.vectors.count

    def close(self) -> None:
        """Nothing is held."""

    def attach(self, eventfd: int, address: int) -> None:
        """Keep the books of notifications."""
        assert address not in self.attached
        self.attached.add(address)

    def detach(self, eventfd: int, address: int) -> None:
        """Keep the books of notifications."""
        self.attached.remove(address)

    def _failed(self, error: Exception, situation: str) -> None:
        if isinstance(error, DriverError):
            assert_one_line(error)
        self.failure = error

    # Steps

    def put_back(self) -> None:
        """Return to power-on."""
        self.transport.write_status(0)
        self.failure = None
        self.loop.forget()
        if self.medium is not None:
            self.medium.put_back()
        self.restore_from(self.pristine)

    def restore_from(self, states: object) -> None:
        """Go on from saved states."""
        function, transport = pickle.loads(pickle.dumps(states))
        self.function.restore(function)
        self.transport.restore(transport)

    def check(self) -> None:
        """Check what must hold between any two accesses."""
        assert self.function.read_config(0, 4) == self.ids
        status = self.transport.status
        assert status & 0x3F in PROGRESS, f"status {status:#x}"
        if self.failure is not None and not isinstance(self.failure, DriverError):
            raise self.failure
        assert self.failure is None or status & 0xC0 or status == 0
        if status == 0:
            self.failure = None
        msix = self.transport.msix
        shown = self.function.read_config(0x06, 1)[0] >> 3 & 1
        disabled = self.function.command & 0x400
        assert shown == (msix.isr != 0 and not msix.vectors.enabled)
        assert self.level == (shown == 1 and not disabled)
        assert msix.vectors.enabled or not msix.vectors.pending
        assert len(self.attached) in (0, len(self.transport.queues))

    def config(self, which: int, offset: int, value: int) -> None:
        """Access configuration space, anywhere and in any width."""
        width = WIDTHS[which >> 1 & 3]
        place = (0, self.slot, which >> 4 & 1 and offset >> 13, offset & 0xFFF)
        if which & 0x80:
            assert len(BUS.read_config(*place, width)) == width
        else:
            BUS.write_config(*place, value.to_bytes(8, "little")[:width])

    def bar(self, which: int, offset: int, value: int) -> None:
        """Access the BAR where it is, if it is somewhere."""
        width = WIDTHS[which >> 1 & 3]
        address = self.function.bar.address + (offset & 0x7FFF)
        if which & 0x80:
            assert len(BUS.read(address, width)) == width
        else:
            BUS.write(address, value.to_bytes(8, "little")[:width])

    def field(self, which: int, offset: int, value: int) -> None:
        """Write a field of the common structure, whether the BAR is seen or not."""
        place, width = FIELDS[offset % len(FIELDS)]
        self.transport.write(place, value.to_bytes(8, "little")[:width])
        assert len(self.transport.read(place, width)) == width

    def serve(self, which: int, offset: int, value: int) -> None:
        """Kick, and let the device work."""
        BUS.write(self.function.bar.address + 0x3000 + 4 * (offset & 3), b"\0\0")
        self.transport.service()
        for _ in range(which >> 1 & 3):
            self.loop.advance()

    def switch(self, which: int, offset: int, value: int) -> None:
        """Write Command, and one of some addresses to the BAR."""
        place = PLACES[offset % len(PLACES)]
        if which & 0x80:
            self.function.write_config(0x10, (place & 0xFFFF_FFFF).to_bytes(4, "little"))
            self.function.write_config(0x14, (place >> 32).to_bytes(4, "little"))
        self.function.write_config(0x04, (value & 0xFFFF).to_bytes(2, "little"))

    def negotiate(self, which: int, offset: int, value: int) -> None:
        """Introduce a driver: offered features, less those in ``value``."""
        self.transport.write_status(0)
        self.failure = None
        offered = self.transport.negotiation.offered
        features = offered & ~(value & 0xFF | (value >> 8 & 0xFFFF) << 28) | 1 << 32
        for status in (1, 3):
            self.transport.write_status(status)
        for word in range(2):
            self.transport.write(0x08, word.to_bytes(4, "little"))
            self.transport.write(0x0C, (features >> 32 * word & 0xFFFF_FFFF).to_bytes(4, "little"))
        self.transport.write_status(0x0B)

    def set_up_queue(self, which: int, offset: int, value: int) -> None:
        """Enable a queue with rings at the places in ``value``, by default one after another."""
        places = [value >> shift & 0x3FF for shift in (0, 10, 20)] if value else [0, 0x40, 0x80]
        self.transport.write(0x16, (offset & 1).to_bytes(2, "little"))
        self.transport.write(0x18, (1 << (offset >> 1 & 3)).to_bytes(2, "little"))
        for area, place in zip((0x20, 0x28, 0x30), places, strict=True):
            self.transport.write(area, (place << 2).to_bytes(8, "little"))
        self.transport.write(0x1A, (offset >> 4).to_bytes(2, "little"))
        self.transport.write(0x1C, b"\x01\x00")

    def go_live(self, which: int, offset: int, value: int) -> None:
        """Set DRIVER_OK, and map the configuration to a vector."""
        self.transport.write(0x10, (offset & 7).to_bytes(2, "little"))
        self.transport.write_status(0x0F)

    def message(self, which: int, offset: int, value: int) -> None:
        """Write an entry of the table, and Message Control."""
        entry = TABLE + 16 * (offset & 7)
        address = 0xFEE0_0000 | value & 0xF_FFFF if value >> 31 else value
        for at, word in ((0, address), (4, which >> 7), (8, value), (12, value >> 30 & 1)):
            self.transport.write(entry + at, word.to_bytes(4, "little"))
        self.function.write_config(0x9A, (offset & 0xC000).to_bytes(2, "little"))

    def window(self, which: int, offset: int, value: int) -> None:
        """Reach a structure through configuration space."""
        capability = 0x84
        self.function.write_config(capability + 4, bytes([which >> 6]))
        self.function.write_config(capability + 8, offset.to_bytes(4, "little"))
        width = WIDTHS[which >> 1 & 3]
        self.function.write_config(capability + 12, width.to_bytes(4, "little"))
        if which & 0x20:
            self.function.write_config(capability + 16, value.to_bytes(4, "little"))
        assert len(self.function.read_config(capability + 16, 4)) == 4

    def restore(self, which: int, offset: int, value: int) -> None:
        """Save, lose everything, and go on from what was saved."""
        states = (self.function.state(), self.transport.state())
        self.transport.write_status(0)
        self.restore_from(states)
        assert self.transport.state() == states[1], "a restored transport differs"
        assert self.function.state() == states[0], "a restored function differs"

    def store(self, which: int, offset: int, value: int) -> None:
        """Store 32 bits in guest memory, as any processor may."""
        RAM.memory.view(4 * (offset & 0xFF), 4)[:] = value.to_bytes(4, "little")


def _functions() -> list[Function]:
    BUS.add(0, host_bridge())
    medium = Medium()
    return [Function(1, Sampler()), Function(2, disk(medium, queues=2), medium)]


FUNCTIONS = _functions()
STEPS = (
    *(Function.config, Function.bar, Function.field, Function.serve, Function.switch),
    *(Function.negotiate, Function.set_up_queue, Function.go_live, Function.message),
    *(Function.window, Function.restore, Function.store),
)


def one_input(data: bytes) -> None:
    """Run one input."""
    for one in FUNCTIONS:
        one.put_back()
    RAM.load(data[SCRIPT_END:])
    script = data[:SCRIPT_END]
    for what, which, offset, value in STEP.iter_unpack(script[: len(script) // 8 * 8]):
        before = RAM.content[:]
        one = FUNCTIONS[which & 1]
        may_write = any(other.function.command & 4 for other in FUNCTIONS)
        step = STEPS[what % len(STEPS)]
        step(one, which, offset, value)
        may_write |= any(other.function.command & 4 for other in FUNCTIONS)
        if not may_write and step is not Function.store:
            assert RAM.content == before, "memory changed without bus master"
        for other in FUNCTIONS:
            other.check()
        for start, length in BUS.claims():
            assert any(low <= start and start + length <= low + size for low, size in WINDOWS)
    RAM.assert_canaries()
