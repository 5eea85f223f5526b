"""The virtio-mmio registers: what each offset reads and takes, and what a misuse gets."""

import logging
import time
from collections.abc import Iterator

import pytest

from transport import VirtioMmio
from transport.report import LINES_PER_SECOND
from transport.testing import MmioDriver, RecordingLine
from virtio.device.declaration import DEFAULT_RING_FEATURES, Device, feature, field, queue
from virtio.testing import ManualLoop, SplitDriver, flat_memory
from virtio.virtqueue.chain import DescriptorChain

FEATURES_WITH_RING_RESET = 1 << 40 | 1 << 32
FEATURES_WITH_NOTIFICATION_DATA = 1 << 38 | 1 << 32


class Panel(Device):
    """Two queues, a third with feature 3, and a configuration space of 12 bytes."""

    device_id = 42
    third = feature(3)
    brightness = field("u32", offset=0, default=0x11223344)
    switch = field("u8", offset=4, writable=True)
    lock = field("u8", offset=5, default=0x77)
    serial = field("u64", offset=8, default=0x8877665544332211)

    def __init__(self) -> None:
        super().__init__(ring_features=DEFAULT_RING_FEATURES | 1 << 38)

    @queue(size=256)
    def inputq(self, chain: DescriptorChain) -> int:
        return chain.write(b"in")

    @queue(size=64)
    def outputq(self, chain: DescriptorChain) -> int:
        return chain.write(b"out")

    @queue(size=16, feature=third)
    def extraq(self, chain: DescriptorChain) -> int:
        return chain.write(b"extra")


@pytest.fixture
def line() -> RecordingLine:
    return RecordingLine()


@pytest.fixture
def transport(line: RecordingLine) -> Iterator[VirtioMmio]:
    with VirtioMmio(Panel(), flat_memory(), line, ManualLoop(), name="panel0") as made:
        yield made


@pytest.fixture
def driver(transport: VirtioMmio) -> MmioDriver:
    return MmioDriver(transport)


# Fixed registers


@pytest.mark.spec("MMIO-01")
@pytest.mark.parametrize(("offset", "value"), [(0x00, 0x74726976), (0x04, 2), (0x08, 42)])
def test_identification_registers_read_their_values(
    driver: MmioDriver, offset: int, value: int
) -> None:
    assert driver.read(offset) == value


def test_registers_are_little_endian(transport: VirtioMmio) -> None:
    assert transport.read(0x00, 4) == b"virt"


@pytest.mark.spec("MMIO-02")
@pytest.mark.parametrize("length", [1, 2, 3, 8])
@pytest.mark.parametrize("offset", [0x00, 0x02, 0x04, 0x70, 0xFC])
def test_control_registers_read_zero_at_other_widths(
    transport: VirtioMmio, offset: int, length: int
) -> None:
    assert transport.read(offset, length) == bytes(length)


@pytest.mark.spec("MMIO-02")
@pytest.mark.parametrize("offset", [0x01, 0x02, 0x03, 0x71])
def test_unaligned_control_access_reads_zero(transport: VirtioMmio, offset: int) -> None:
    assert transport.read(offset, 4) == bytes(4)


@pytest.mark.spec("MMIO-02")
@pytest.mark.parametrize("data", [b"\1", b"\1\0", b"\1" + bytes(7)])
def test_control_write_at_another_width_is_dropped(
    transport: VirtioMmio, driver: MmioDriver, data: bytes
) -> None:
    transport.write(0x70, data)

    assert driver.status == 0


@pytest.mark.spec("MMIO-03")
@pytest.mark.parametrize(
    "offset",
    [
        *(0x14, 0x20, 0x24, 0x28, 0x2C, 0x30, 0x38, 0x3C, 0x40, 0x48, 0x50, 0x64),
        *(0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4, 0xAC, 0xC4, 0xF8),
    ],
)
def test_write_only_registers_and_gaps_read_zero(driver: MmioDriver, offset: int) -> None:
    driver.start(SplitDriver(driver.transport.memory, 8))

    assert driver.read(offset) == 0


@pytest.mark.spec("MMIO-03")
@pytest.mark.parametrize("offset", [0x00, 0x04, 0x08, 0x0C, 0x10, 0x34, 0x60, 0xB0, 0xFC])
def test_read_only_registers_ignore_writes(driver: MmioDriver, offset: int) -> None:
    before = driver.read(offset)

    driver.write(offset, 0x5A5A_5A5A)

    assert driver.read(offset) == before


# Features


@pytest.mark.spec("COM-10", "COM-13")
def test_offer_is_the_devices_features_and_version_1(driver: MmioDriver) -> None:
    assert driver.offered_features() == 1 << 3 | 1 << 28 | 1 << 29 | 1 << 32 | 1 << 38 | 1 << 40


@pytest.mark.spec("MMIO-05")
@pytest.mark.parametrize("word", [2, 3, 4, 0x8000_0000, 0xFFFF_FFFF])
def test_unused_feature_words_read_zero(driver: MmioDriver, word: int) -> None:
    driver.write(0x14, word)

    assert driver.read(0x10) == 0


@pytest.mark.spec("COM-11")
def test_features_ok_is_refused_without_version_1(driver: MmioDriver) -> None:
    assert driver.negotiate(1 << 28) is False
    assert driver.status == 0x03


@pytest.mark.spec("COM-15")
@pytest.mark.parametrize("bit", [0, 24, 27, 30, 33, 37, 43, 44, 63, 64, 127])
def test_features_ok_is_refused_for_a_bit_not_offered(driver: MmioDriver, bit: int) -> None:
    assert driver.negotiate(1 << 32 | 1 << bit) is False


@pytest.mark.spec("COM-14")
def test_driver_may_try_a_smaller_set_after_a_refusal(driver: MmioDriver) -> None:
    driver.negotiate(1 << 32 | 1 << 44)

    driver.accept_features(1 << 32)
    driver.status = 0x0B

    assert driver.status == 0x0B


@pytest.mark.spec("MMIO-06")
@pytest.mark.parametrize("word", [4, 7, 0xFFFF_FFFF])
def test_bit_in_a_word_past_the_last_counts_as_not_offered(driver: MmioDriver, word: int) -> None:
    driver.status = 0x03
    driver.accept_features(1 << 32)
    driver.write(0x24, word)
    driver.write(0x20, 1)

    driver.status = 0x0B

    assert driver.status == 0x03


def test_zero_in_a_word_past_the_last_is_harmless(driver: MmioDriver) -> None:
    driver.status = 0x03
    driver.accept_features(1 << 32)
    driver.write(0x24, 7)
    driver.write(0x20, 0)

    driver.status = 0x0B

    assert driver.status == 0x0B


@pytest.mark.spec("COM-16")
def test_features_written_after_features_ok_are_dropped(
    transport: VirtioMmio, driver: MmioDriver
) -> None:
    driver.negotiate(1 << 32)

    driver.accept_features(1 << 32 | 1 << 3)

    assert transport.features == 1 << 32
    assert transport.device.driver_features == 1 << 32


# Queues


@pytest.mark.spec("MMIO-09")
def test_queue_size_max_is_that_of_the_selected_queue(driver: MmioDriver) -> None:
    sizes = []
    for index in (0, 1):
        driver.write(0x30, index)
        sizes.append(driver.read(0x34))

    assert sizes == [256, 64]


@pytest.mark.spec("MMIO-08")
@pytest.mark.parametrize("index", [3, 0xFFFF, 0x1_0000, 0xFFFF_FFFF])
def test_missing_queue_has_size_zero_and_is_never_ready(driver: MmioDriver, index: int) -> None:
    driver.negotiate()

    ready = driver.set_up_queue(index, 8, 0x1000, 0x2000, 0x3000)

    assert ready is False
    assert driver.read(0x34) == 0
    assert driver.status == 0x0B


@pytest.mark.spec("MMIO-08")
@pytest.mark.parametrize(("features", "size"), [(1 << 32, 0), (1 << 32 | 1 << 3, 16)])
def test_queue_of_a_feature_exists_only_when_the_feature_is_accepted(
    driver: MmioDriver, features: int, size: int
) -> None:
    driver.negotiate(features)

    driver.write(0x30, 2)

    assert driver.read(0x34) == size


@pytest.mark.spec("MMIO-07")
def test_settings_are_kept_per_queue(transport: VirtioMmio, driver: MmioDriver) -> None:
    driver.negotiate()
    driver.write(0x30, 0)
    driver.write(0x38, 128)
    driver.write(0x80, 0x1000)
    driver.write(0x30, 1)
    driver.write(0x38, 32)
    driver.write(0x80, 0x2000)
    driver.write(0x30, 0)
    driver.write(0x90, 0x3000)
    driver.write(0x30, 1)
    driver.write(0xA0, 0x4000)

    first, second, _ = (one.registers for one in transport.state().queues)

    assert (first.size, first.descriptor_area, first.driver_area, first.device_area) == (
        128,
        0x1000,
        0x3000,
        0,
    )
    assert (second.size, second.descriptor_area, second.driver_area, second.device_area) == (
        32,
        0x2000,
        0,
        0x4000,
    )


@pytest.mark.spec("MMIO-10")
@pytest.mark.parametrize(
    "writes",
    [
        [(0x80, 0x9ABCDEF0), (0x84, 0x12345678)],
        [(0x84, 0x12345678), (0x80, 0x9ABCDEF0)],
    ],
)
def test_address_halves_may_come_in_either_order(
    transport: VirtioMmio, driver: MmioDriver, writes: list[tuple[int, int]]
) -> None:
    for offset, value in writes:
        driver.write(offset, value)

    assert transport.state().queues[0].registers.descriptor_area == 0x123456789ABCDEF0


@pytest.mark.spec("MMIO-10")
def test_address_half_that_is_written_again_replaces_only_itself(
    transport: VirtioMmio, driver: MmioDriver
) -> None:
    for offset, value in ((0x84, 1), (0x80, 2), (0x84, 3), (0x80, 4)):
        driver.write(offset, value)

    assert transport.state().queues[0].registers.descriptor_area == 0x0000_0003_0000_0004


@pytest.mark.spec("MMIO-13")
def test_queue_cannot_be_enabled_before_features_ok(driver: MmioDriver) -> None:
    driver.status = 0x03

    ready = driver.set_up_queue(0, *SplitDriver(driver.transport.memory, 8).layout)

    assert ready is False
    assert driver.status == 0x03


@pytest.mark.spec("MMIO-12", "SPL-02", "SPL-03", "SPL-04")
@pytest.mark.parametrize(
    ("size", "descriptor_area", "driver_area", "device_area"),
    [
        (0, 0x1000, 0x2000, 0x3000),
        (3, 0x1000, 0x2000, 0x3000),
        (512, 0x1000, 0x4000, 0x6000),
        (0x1_0008, 0x1000, 0x2000, 0x3000),
        (0xFFFF_FFFF, 0x1000, 0x2000, 0x3000),
        (8, 0x1008, 0x2000, 0x3000),
        (8, 0x1000, 0x2001, 0x3000),
        (8, 0x1000, 0x2000, 0x3002),
        (8, 0xFFFF0, 0x2000, 0x3000),
        (8, 0x1000, 0x100000, 0x3000),
        (8, 0x1000, 0x2000, 0xFFFF_FFFF_FFFF_FFF0),
    ],
)
def test_impossible_geometry_leaves_the_queue_disabled_and_needs_a_reset(
    driver: MmioDriver, size: int, descriptor_area: int, driver_area: int, device_area: int
) -> None:
    driver.negotiate()

    ready = driver.set_up_queue(0, size, descriptor_area, driver_area, device_area)

    assert ready is False
    assert driver.status == 0x4B


@pytest.mark.spec("MMIO-11")
def test_settings_of_a_live_queue_cannot_be_changed(
    transport: VirtioMmio, driver: MmioDriver
) -> None:
    driver.start(SplitDriver(transport.memory, 8))
    before = transport.state().queues[0]

    for offset in (0x38, 0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4):
        driver.write(offset, 0x5000)

    assert transport.state().queues[0] == before


@pytest.mark.spec("MMIO-14")
def test_enabling_a_live_queue_again_does_not_start_it_over(
    transport: VirtioMmio, driver: MmioDriver
) -> None:
    ring = SplitDriver(transport.memory, 8)
    driver.start(ring)
    ring.add(writable=[2])
    transport.service()
    driver.notify(0)
    transport.service()

    driver.write(0x44, 1)
    ring.add(writable=[2])
    driver.notify(0)
    transport.service()

    assert [used.token for used in ring.collect()] == [0, 1]
    assert driver.status == 0x0F


@pytest.mark.spec("MMIO-14")
@pytest.mark.parametrize("value", [2, 3, 0x8000_0001, 0xFFFF_FFFF])
def test_queue_ready_takes_no_other_values(driver: MmioDriver, value: int) -> None:
    driver.start(SplitDriver(driver.transport.memory, 8))

    driver.write(0x44, value)

    assert driver.read(0x44) == 1


@pytest.mark.spec("MMIO-14")
def test_queue_is_not_enabled_by_another_value_than_one(driver: MmioDriver) -> None:
    driver.start(SplitDriver(driver.transport.memory, 8))
    driver.write(0x44, 0)

    driver.write(0x44, 3)

    assert driver.read(0x44) == 0


@pytest.mark.spec("MMIO-16", "MMIO-17")
def test_disabled_queue_starts_at_position_zero_when_enabled_again(
    transport: VirtioMmio, driver: MmioDriver
) -> None:
    ring = SplitDriver(transport.memory, 8)
    driver.start(ring)
    for _ in range(3):
        ring.add(writable=[2])
    transport.service()
    driver.write(0x44, 0)
    assert driver.read(0x44) == 0
    rebuilt = SplitDriver(transport.memory, 16, base=0x9000)

    driver.set_up_queue(0, *rebuilt.layout)
    rebuilt.add(writable=[2])
    driver.notify(0)
    transport.service()

    assert [used.data for used in rebuilt.collect()] == [b"in"]


@pytest.mark.spec("MMIO-15", "MMIO-16")
def test_disabled_queue_is_not_touched(transport: VirtioMmio, driver: MmioDriver) -> None:
    ring = SplitDriver(transport.memory, 8)
    driver.start(ring)
    transport.service()
    driver.write(0x44, 0)
    ring.add(writable=[2])
    before = bytes(transport.memory.view(0, 1 << 20))

    driver.notify(0)
    transport.service()

    assert bytes(transport.memory.view(0, 1 << 20)) == before


# Notifications


@pytest.mark.spec("MMIO-18")
@pytest.mark.parametrize("index", [1, 2, 3, 0xFFFF, 0x1_0000, 0xFFFF_FFFF])
def test_notification_for_a_queue_that_is_not_live_is_dropped(
    transport: VirtioMmio, driver: MmioDriver, index: int
) -> None:
    driver.start(SplitDriver(transport.memory, 8))

    driver.notify(index)
    transport.service()

    assert transport.stats.kicks == 0
    assert driver.status == 0x0F


@pytest.mark.spec("SPL-45")
def test_spurious_notifications_do_nothing(
    transport: VirtioMmio, driver: MmioDriver, line: RecordingLine
) -> None:
    driver.start(SplitDriver(transport.memory, 8))

    for _ in range(1000):
        driver.notify(0)
        transport.service()

    assert driver.status == 0x0F
    assert line.edges == 0
    assert transport.stats.kicks == 1000


@pytest.mark.spec("MMIO-19")
@pytest.mark.parametrize("value", [0x0000_0000, 0x7FFF_0000, 0xFFFF_0000, 0x8001_0000])
def test_position_in_a_notification_is_a_hint_only(
    transport: VirtioMmio, driver: MmioDriver, value: int
) -> None:
    ring = SplitDriver(transport.memory, 8)
    driver.start(ring, features=FEATURES_WITH_NOTIFICATION_DATA)
    transport.service()
    ring.add(writable=[2])

    driver.notify(value)
    transport.service()

    assert [used.data for used in ring.collect()] == [b"in"]


@pytest.mark.spec("MMIO-19")
def test_whole_value_is_the_index_without_notification_data(
    transport: VirtioMmio, driver: MmioDriver
) -> None:
    ring = SplitDriver(transport.memory, 8)
    driver.start(ring)
    transport.service()
    ring.add(writable=[2])

    driver.notify(0x0001_0000)
    transport.service()

    assert ring.collect() == []


def test_each_queue_has_its_own_eventfd(transport: VirtioMmio) -> None:
    assert len(set(transport.notify_fds)) == 3


# Queue reset


@pytest.mark.spec("MMIO-33", "MMIO-34", "MMIO-36")
def test_reset_queue_can_be_enabled_with_another_size_and_place(
    transport: VirtioMmio, driver: MmioDriver
) -> None:
    driver.start(SplitDriver(transport.memory, 256), features=FEATURES_WITH_RING_RESET)
    driver.write(0x30, 0)

    driver.write(0xC0, 1)
    after_reset = (driver.read(0xC0), driver.read(0x44))
    smaller = SplitDriver(transport.memory, 64, base=0x20000)
    ready = driver.set_up_queue(0, *smaller.layout)
    smaller.add(writable=[2])
    driver.notify(0)
    transport.service()

    assert after_reset == (0, 0)
    assert ready is True
    assert driver.read(0xC0) == 0
    assert [used.data for used in smaller.collect()] == [b"in"]


@pytest.mark.spec("MMIO-34")
def test_reset_queue_has_default_settings(transport: VirtioMmio, driver: MmioDriver) -> None:
    driver.start(SplitDriver(transport.memory, 64), features=FEATURES_WITH_RING_RESET)

    driver.write(0xC0, 1)

    queue_state = transport.state().queues[0].registers
    assert (queue_state.size, queue_state.descriptor_area, queue_state.ready) == (256, 0, False)


@pytest.mark.spec("MMIO-36")
def test_reset_of_one_queue_leaves_the_others_alone(
    transport: VirtioMmio, driver: MmioDriver
) -> None:
    first = SplitDriver(transport.memory, 8)
    second = SplitDriver(transport.memory, 8, base=0x8000)
    driver.start(first, second, features=FEATURES_WITH_RING_RESET)
    driver.write(0x30, 0)

    driver.write(0xC0, 1)
    second.add(writable=[3])
    driver.notify(1)
    transport.service()

    assert [used.data for used in second.collect()] == [b"out"]


@pytest.mark.spec("MMIO-37")
@pytest.mark.parametrize(
    ("features", "value"),
    [(1 << 32, 1), (FEATURES_WITH_RING_RESET, 0), (FEATURES_WITH_RING_RESET, 2)],
)
def test_queue_reset_needs_the_feature_and_the_value_one(
    driver: MmioDriver, features: int, value: int
) -> None:
    driver.start(SplitDriver(driver.transport.memory, 8), features=features)

    driver.write(0xC0, value)

    assert driver.read(0xC0) == 0
    assert driver.read(0x44) == 1


# Interrupts


@pytest.mark.spec("MMIO-21", "MMIO-22")
def test_interrupt_status_holds_until_acknowledged(
    transport: VirtioMmio, driver: MmioDriver
) -> None:
    ring = SplitDriver(transport.memory, 8)
    driver.start(ring)
    ring.add(writable=[2])

    transport.service()

    assert [driver.interrupt_status for _ in range(3)] == [1, 1, 1]


@pytest.mark.spec("MMIO-23", "MMIO-24")
def test_acknowledgement_clears_its_bits_and_the_last_one_lowers_the_line(
    transport: VirtioMmio, driver: MmioDriver, line: RecordingLine
) -> None:
    ring = SplitDriver(transport.memory, 8)
    driver.start(ring)
    ring.add(writable=[2])
    transport.service()
    panel = transport.device
    assert isinstance(panel, Panel)
    panel.brightness = 5
    seen = [(driver.interrupt_status, line.level)]

    for bits in (0xFFFF_FFFC, 1, 2):
        driver.acknowledge(bits)
        seen.append((driver.interrupt_status, line.level))

    assert seen == [(3, True), (3, True), (2, True), (0, False)]


@pytest.mark.spec("MMIO-25")
def test_each_event_is_an_edge_also_while_the_bit_is_set(
    transport: VirtioMmio, driver: MmioDriver, line: RecordingLine
) -> None:
    ring = SplitDriver(transport.memory, 8)
    driver.start(ring)
    transport.service()

    for _ in range(3):
        ring.add(writable=[2])
        driver.notify(0)
        transport.service()

    assert line.edges == 3
    assert transport.stats.interrupts == 3


@pytest.mark.spec("MMIO-27")
def test_suppressed_notification_sets_no_bit(transport: VirtioMmio, driver: MmioDriver) -> None:
    ring = SplitDriver(transport.memory, 8)
    driver.start(ring)
    ring.suppress_interrupts()
    ring.add(writable=[2])

    transport.service()

    assert len(ring.collect()) == 1
    assert driver.interrupt_status == 0


# Shared memory


@pytest.mark.spec("MMIO-38")
@pytest.mark.parametrize("region", [0, 5, 0xFFFF_FFFF])
def test_missing_shared_memory_region_reads_all_ones(driver: MmioDriver, region: int) -> None:
    driver.write(0xAC, region)

    assert [driver.read(offset) for offset in (0xB0, 0xB4, 0xB8, 0xBC)] == [0xFFFF_FFFF] * 4


# Configuration space

IMAGE = bytes.fromhex("44332211 00 77 0000 1122334455667788") + bytes(16)


@pytest.mark.spec("MMIO-29", "COM-26", "COM-30")
@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("offset", range(20))
def test_configuration_reads_are_parts_of_its_byte_image(
    transport: VirtioMmio, offset: int, width: int
) -> None:
    assert transport.read(0x100 + offset, width) == IMAGE[offset : offset + width]


@pytest.mark.spec("COM-30")
@pytest.mark.parametrize("length", [0, 3, 5, 16])
def test_configuration_reads_zero_at_other_widths(transport: VirtioMmio, length: int) -> None:
    assert transport.read(0x100, length) == bytes(length)


@pytest.mark.spec("COM-29")
def test_configuration_write_reaches_a_writable_field(
    transport: VirtioMmio, driver: MmioDriver
) -> None:
    driver.start()

    transport.write(0x104, b"\x05")

    assert transport.read(0x104, 1) == b"\x05"


@pytest.mark.spec("COM-29", "MMIO-30")
def test_configuration_write_spares_read_only_neighbours(
    transport: VirtioMmio, driver: MmioDriver
) -> None:
    driver.start()

    transport.write(0x104, b"\x05\x06\x07\x08")

    assert transport.read(0x104, 4) == b"\x05\x77\x00\x00"


@pytest.mark.spec("COM-29")
def test_configuration_write_before_features_ok_is_dropped(
    transport: VirtioMmio, driver: MmioDriver
) -> None:
    driver.status = 0x03

    transport.write(0x104, b"\x05")

    assert transport.read(0x104, 1) == b"\x00"


@pytest.mark.spec("COM-28", "MMIO-31")
def test_configuration_change_has_a_new_generation_and_an_interrupt(
    transport: VirtioMmio, driver: MmioDriver, line: RecordingLine
) -> None:
    driver.start()
    panel = transport.device
    assert isinstance(panel, Panel)
    before = driver.read(0xFC)

    panel.serial = 1

    assert driver.read(0xFC) != before
    assert driver.interrupt_status == 2
    assert transport.stats.config_changes == line.edges == 1


class Grumpy(Panel):
    """Fails whenever its configuration space is accessed."""

    def read_config(self, offset: int, length: int) -> bytes:
        raise ZeroDivisionError

    def write_config(self, offset: int, data: bytes) -> None:
        raise ZeroDivisionError


def test_failing_configuration_read_returns_zeros_and_needs_a_reset() -> None:
    with VirtioMmio(Grumpy(), flat_memory(), RecordingLine(), ManualLoop()) as transport:
        assert transport.read(0x100, 4) == bytes(4)
        assert transport.status == 0x40


def test_failing_configuration_write_needs_a_reset() -> None:
    with VirtioMmio(Grumpy(), flat_memory(), RecordingLine(), ManualLoop()) as transport:
        transport.write(0x100, bytes(4))

        assert transport.status == 0x40


# Reports


def test_dropped_accesses_are_logged_a_few_times_for_debugging(
    transport: VirtioMmio, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    start = time.monotonic()
    for _ in range(1000):
        transport.read(0x02, 2)
    earned = LINES_PER_SECOND * (time.monotonic() - start)

    assert caplog.messages[0] == "panel0: read of 2 bytes at 0x2"
    assert 10 <= len(caplog.messages) <= 10 + earned


def test_description_names_status_features_and_each_queue(
    transport: VirtioMmio, driver: MmioDriver
) -> None:
    ring = SplitDriver(transport.memory, 8)
    driver.start(ring)
    ring.add(writable=[2])
    transport.service()
    driver.notify(0)
    transport.service()

    assert transport.describe() == [
        "panel0: device type 42, status 0xf (ACKNOWLEDGE DRIVER FEATURES_OK DRIVER_OK),"
        " features 0x100000000, interrupt status 0x1, 1 kicks, 1 interrupts",
        "  queue 0: size 8 of 256, ready, next available 1, next used 1, 0 outstanding",
        "  queue 1: size 64 of 64, not ready",
        "  queue 2: size 0 of 0, not ready",
    ]


def test_description_tells_a_queue_that_waits_from_those_not_used(
    transport: VirtioMmio, driver: MmioDriver
) -> None:
    rings = [SplitDriver(transport.memory, 8, base=base) for base in (0x1000, 0x8000)]
    driver.start(*rings)

    assert transport.describe()[1:] == [
        "  queue 2: size 0 of 0, not ready",
        "  not used yet: 2 of 3 queues",
    ]

    rings[1].add(writable=[2])

    assert transport.describe()[1:] == [
        "  queue 1: size 8 of 64, ready, next available 0, next used 0, 0 outstanding,"
        " more available",
        "  queue 2: size 0 of 0, not ready",
        "  not used yet: 1 of 3 queues",
    ]
