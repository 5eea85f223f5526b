"""The registers of a virtio-mmio device against a small model of its status machine."""

import pickle
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.fuzz.machines import machine_settings
from tests.fuzz.targets.devices import Sampler
from tests.fuzz.targets.ram import FuzzRam
from transport.mmio.registers import VirtioMmio
from transport.testing import RecordingLine
from virtio.testing import ManualLoop, PackedDriver, QueueDriver, SplitDriver

VERSION_1, RING_PACKED, RING_RESET = 1 << 32, 1 << 34, 1 << 40
# Bits 28, 29, 32, 34, 35, 38, 40, and the device's own: 1 needs 0.
OFFERED = 0x3 | 1 << 28 | 1 << 29 | VERSION_1 | RING_PACKED | 1 << 35 | 1 << 38 | RING_RESET
STEPS = ((1, 0), (2, 1), (8, 2), (4, 8))
QUEUES = (64, 64)
SIZES = (2, 4, 8, 16, 64)
READ_ONLY = (0x00, 0x04, 0x08, 0x0C, 0x10, 0x34, 0x60, 0xB0, 0xFC)
WRITE_ONLY = (0x14, 0x20, 0x24, 0x30, 0x38, 0x50, 0x64, 0x80, 0x94, 0xA0, 0xAC)

words = st.integers(0, 0xFFFF_FFFF)
queue_numbers = st.integers(0, 1)
refusals = st.sets(st.sampled_from([0, 1, 28, 29, 34, 35, 38, 40])).map(
    lambda bits: sum(1 << bit for bit in bits)
)


@dataclass
class QueueModel:
    """What the registers of a queue hold."""

    ready: bool = False
    driver: QueueDriver | None = None


@dataclass
class Model:
    """What a driver can know of a device."""

    status: int = 0
    accepted: int = 0
    unknown: bool = False
    pending: int = 0
    small: int = 0
    early: int = 0
    count: int = 0
    queues: list[QueueModel] = field(default_factory=lambda: [QueueModel() for _ in QUEUES])

    @property
    def frozen(self) -> bool:
        """Whether the features can no longer be changed."""
        return bool(self.status & 8)

    @property
    def live(self) -> bool:
        """Whether the device works."""
        return self.status == 0xF

    @property
    def stopped(self) -> bool:
        """Whether only a reset helps."""
        return bool(self.status & 0xC0)

    def features_fit(self) -> bool:
        """Whether FEATURES_OK will be accepted."""
        if self.unknown or self.accepted & ~OFFERED or not self.accepted & VERSION_1:
            return False
        return self.accepted & 3 != 2


class TransportMachine(RuleBasedStateMachine):
    """A driver that does anything at any time sees what the specification says, and no more."""

    @initialize()
    def plug_in(self) -> None:
        """Make device and guest."""
        self.ram = FuzzRam((0, 0x10000), (1 << 32, 0x1000))
        self.model = Model()
        self.make()

    def make(self) -> None:
        """Make a device on its transport."""
        self.line = RecordingLine()
        self.loop = ManualLoop()
        self.transport = VirtioMmio(Sampler(), self.ram.memory, self.line, self.loop)
        self.failures: list[Exception] = []
        self.transport.report.failed = self.note_failure  # type: ignore[method-assign]

    def note_failure(self, error: Exception, situation: str) -> None:
        """Keep what the device failed of."""
        self.failures.append(error)

    def teardown(self) -> None:
        """Close the descriptors."""
        self.transport.close()

    # Status and features

    @rule(value=st.sampled_from([1, 3, 0xB, 0xF, 0xF, 2, 8, 4, 0x40, 0x80, 0xFF]) | words)
    def write_status(self, value: int) -> None:
        """Write any status but zero."""
        self.write(0x70, value)
        model = self.model
        if value == 0:
            self.forget()
        elif not model.stopped and value & 0x80:
            model.status |= 0x80
        elif not model.stopped:
            self.advance(value)

    def advance(self, value: int) -> None:
        """Take the steps that are in order."""
        model = self.model
        for bit, needed in STEPS:
            if not value & bit or model.status & bit:
                continue
            if model.status & needed != needed or (bit == 8 and not model.features_fit()):
                return
            model.status |= bit

    @rule()
    def reset(self) -> None:
        """Reset the device."""
        self.write(0x70, 0)
        self.forget()

    def forget(self) -> None:
        """Model a reset: of the configuration, what the device set by itself stays."""
        self.model = Model(count=self.model.count)

    @rule(select=st.integers(0, 6), word=words)
    def accept_word(self, select: int, word: int) -> None:
        """Accept any bits in any word."""
        self.write(0x24, select)
        self.write(0x20, word)
        model = self.model
        if model.frozen:
            return
        if select > 3:
            model.unknown |= word != 0
            return
        model.accepted = model.accepted & ~(0xFFFF_FFFF << 32 * select) | word << 32 * select

    @rule(refused=refusals, foreign=st.sampled_from([0, 1 << 5, 1 << 33, 1 << 70, 1 << 130]))
    def initialize_driver(self, refused: int, foreign: int = 0) -> None:
        """Reset, and come as far as FEATURES_OK; at times with what is not offered, at first."""
        self.reset()
        self.write_status(3)
        for features in (
            (OFFERED | foreign, OFFERED & ~refused) if foreign else (OFFERED & ~refused,)
        ):
            for word in range(5):
                self.accept_word(word, features >> 32 * word & 0xFFFF_FFFF)
            self.write_status(0xB)

    @rule(select=words | st.integers(0, 5))
    def read_offer(self, select: int) -> None:
        """Read a word of what is offered."""
        self.write(0x14, select)
        assert self.read(0x10) == (OFFERED >> 32 * select & 0xFFFF_FFFF if select < 4 else 0)

    # Queues

    @rule(index=queue_numbers, size=st.sampled_from(SIZES))
    def enable_queue(self, index: int, size: int) -> None:
        """Enable a queue as a driver should."""
        one = self.model.queues[index]
        kind = PackedDriver if self.model.accepted & RING_PACKED else SplitDriver
        base = 0x1000 + 0x6000 * index
        if not one.ready:
            self.ram.memory.view(base, 0x1000)[:] = bytes(0x1000)
            event_idx = bool(self.model.accepted >> 29 & 1)
            driver = kind(self.ram.memory, size, base=base, event_idx=event_idx)
            driver.want_interrupts()
            self.configure(index, *driver.layout)
            if self.model.frozen and not self.model.stopped:
                one.ready, one.driver = True, driver
        self.write(0x30, index)
        self.write(0x44, 1)

    @rule(
        index=queue_numbers,
        size=st.sampled_from((0, 65, 128, 1 << 31)),
        areas=st.tuples(words, words, words),
    )
    def enable_broken_queue(self, index: int, size: int, areas: tuple[int, int, int]) -> None:
        """Enable a queue whose size is not allowed, or whose table is not in RAM: it breaks."""
        model = self.model
        inside = (0x8000, 0x9000, 0xA000)
        outside = (areas[0] | 1 << 40, areas[1], areas[2])
        self.configure(index, size, *(inside if size in (0, 65, 128) else outside))
        self.write(0x44, 1)
        if model.frozen and not model.stopped and not model.queues[index].ready:
            model.status |= 0x40
            model.pending |= 2 * bool(model.status & 4)

    def configure(self, index: int, size: int, *areas: int) -> None:
        """Write size and addresses of a queue."""
        self.write(0x30, index)
        self.write(0x38, size)
        for register, address in zip((0x80, 0x90, 0xA0), areas, strict=True):
            self.write(register, address & 0xFFFF_FFFF)
            self.write(register + 4, address >> 32)

    @rule(index=queue_numbers)
    def disable_queue(self, index: int) -> None:
        """Take a queue away."""
        self.write(0x30, index)
        self.write(0x44, 0)
        self.model.queues[index] = QueueModel()

    @rule(index=queue_numbers)
    def reset_queue(self, index: int) -> None:
        """Reset a queue; without the feature nothing happens."""
        self.write(0x30, index)
        self.write(0xC0, 1)
        if self.model.frozen and self.model.accepted & RING_RESET:
            self.model.queues[index] = QueueModel()
        assert self.read(0xC0) == 0

    @rule(select=words)
    def select_no_queue(self, select: int) -> None:
        """Select a queue that is not there: its registers are 0 and take nothing."""
        self.write(0x30, select | 2)
        for register, value in ((0x38, 4), (0x80, 0x1000), (0x44, 1), (0xC0, 1)):
            self.write(register, value)
        assert [self.read(register) for register in (0x34, 0x44, 0xC0)] == [0, 0, 0]

    @rule(refused=refusals, size=st.sampled_from(SIZES), queues=st.integers(0, 2))
    def bring_up(self, refused: int, size: int, queues: int) -> None:
        """Do all that a driver does until the device is live."""
        self.initialize_driver(refused)
        for index in range(queues):
            self.enable_queue(index, size)
        self.write_status(0xF)

    # Work

    @rule(index=queue_numbers, data=st.binary(min_size=1, max_size=40), rounds=st.integers(1, 3))
    def request(self, index: int, data: bytes, rounds: int) -> None:
        """Send chains; a live device answers each, and interrupts."""
        model = self.model
        driver = model.queues[index].driver
        if driver is None or not model.live:
            self.write(0x50, index)
            self.transport.service()
            return
        answer, length = (data, len(data)) if index == 0 else (b"held", 4)
        for _ in range(rounds):
            driver.add([data], [64])
            self.write(0x50, index)
            self.transport.service()
            self.loop.advance()
            [used] = driver.collect()
            assert (used.data[: used.length], used.length) == (answer, length)
            driver.want_interrupts()
        model.pending |= 1

    @rule(index=words)
    def notify_anything(self, index: int) -> None:
        """Notify queues that may not be there."""
        edges = self.line.edges
        self.write(0x50, index)
        self.transport.service()
        self.loop.advance()
        assert self.line.edges == edges

    @rule(bits=words)
    def acknowledge(self, bits: int) -> None:
        """Acknowledge interrupts."""
        self.write(0x64, bits)
        self.model.pending &= ~bits

    # Configuration

    @rule(value=st.integers(0, 255))
    def write_small(self, value: int) -> None:
        """Write the field that takes only values below 128, and the one that follows from it."""
        model = self.model
        if model.stopped:
            return
        self.transport.write(0x100, bytes([value]))
        if model.frozen:
            model.pending |= 2 * (model.live and model.count != value * 3)
            model.count = value * 3
            model.small = value if value < 0x80 else model.small

    @rule(value=words)
    def write_early(self, value: int) -> None:
        """Write the field that may be written at any time."""
        self.transport.write(0x118, value.to_bytes(4, "little"))
        self.model.early = value

    @rule(offset=st.integers(0, 0x1000), length=st.integers(0, 9))
    def read_anything(self, offset: int, length: int) -> None:
        """Read anywhere, in any width."""
        assert len(self.transport.read(offset, length)) == length

    # What has no effect

    @rule(
        index=queue_numbers,
        register=st.sampled_from((0x38, 0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4)),
        value=words,
    )
    def configure_enabled_queue(self, index: int, register: int, value: int) -> None:
        """Move a queue that is enabled."""
        self.enable_queue(index, 4)
        if self.model.queues[index].ready:
            self.assert_no_effect(register, value.to_bytes(4, "little"))

    @rule(register=st.sampled_from(READ_ONLY), value=words)
    def write_read_only(self, register: int, value: int) -> None:
        """Write what can only be read."""
        self.assert_no_effect(register, value.to_bytes(4, "little"))

    @rule(offset=st.integers(0, 0xFF), data=st.binary(max_size=9))
    def write_oddly(self, offset: int, data: bytes) -> None:
        """Write registers in a wrong width, or between them."""
        if len(data) != 4 or offset % 4:
            self.assert_no_effect(offset, data)

    @rule(register=st.sampled_from(WRITE_ONLY))
    def read_write_only(self, register: int) -> None:
        """Read what can only be written."""
        assert self.read(register) == 0

    def assert_no_effect(self, offset: int, data: bytes) -> None:
        """Write, and see that nothing is different."""
        before = self.transport.state()
        self.transport.write(offset, data)
        assert self.transport.state() == before

    # Saved state

    @rule()
    def save_and_restore(self) -> None:
        """Go on with another device on another transport."""
        state = self.transport.state()
        self.transport.close()
        self.make()
        self.transport.restore(pickle.loads(pickle.dumps(state)))
        assert self.transport.state() == state
        assert self.line.level == bool(state.interrupts["status"])

    # What always holds

    @invariant()
    def registers_agree_with_the_model(self) -> None:
        """Compare all that can be read without side effects."""
        model = self.model
        assert self.read(0x70) == model.status
        assert self.read(0x60) == model.pending
        ready = []
        for index, largest in enumerate(QUEUES):
            self.write(0x30, index)
            assert self.read(0x34) == largest
            ready.append(bool(self.read(0x44)))
        assert ready == [one.ready for one in model.queues]
        assert self.transport.read(0x100, 1)[0] == model.small
        assert int.from_bytes(self.transport.read(0x118, 4), "little") == model.early
        assert int.from_bytes(self.transport.read(0x11C, 2), "little") == model.count

    @invariant()
    def nothing_else_happened(self) -> None:
        """No interrupt before DRIVER_OK, no failure but the driver's, no write outside RAM."""
        assert self.model.status & 4 or not self.line.level
        assert all(type(error).__name__ == "DriverError" for error in self.failures)
        self.ram.assert_canaries()

    # Helpers

    def read(self, offset: int) -> int:
        """Read a register."""
        data = self.transport.read(offset, 4)
        assert len(data) == 4
        return int.from_bytes(data, "little")

    def write(self, offset: int, value: int) -> None:
        """Write a register."""
        self.transport.write(offset, value.to_bytes(4, "little"))


TestTransport = TransportMachine.TestCase
TestTransport.settings = machine_settings(120, 50)
