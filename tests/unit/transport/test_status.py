"""The device status register: what a driver can set, in which order, and what a reset undoes."""

import logging
import time
import weakref
from collections.abc import Iterator

import pytest

from transport import VirtioMmio
from transport.report import LINES_PER_SECOND
from transport.testing import MmioDriver, RecordingLine
from virtio.device.declaration import Device, queue
from virtio.device.lifecycle import VirtioDevice
from virtio.errors import DriverError
from virtio.testing import ManualLoop, SplitDriver, flat_memory
from virtio.virtqueue.chain import DescriptorChain


class Shout(Device):
    """Answers each request with its text in capitals; breaks on the request ``crash``."""

    device_id = 42

    @queue(size=8)
    def requestq(self, chain: DescriptorChain) -> int:
        text = chain.read(chain.readable_length)
        if text == b"crash":
            raise RuntimeError("boom")
        return chain.write(text.upper())


class Setting:
    """A device on its transport, with a driver for its registers and one for its queue."""

    def __init__(self, device: VirtioDevice | None = None) -> None:
        self.line = RecordingLine()
        memory = flat_memory()
        self.transport = VirtioMmio(
            device or Shout(), memory, self.line, ManualLoop(), name="shout0"
        )
        self.driver = MmioDriver(self.transport)
        self.ring = SplitDriver(memory, 8)

    def answers(self) -> list[bytes]:
        self.transport.service()
        return [used.data[: used.length] for used in self.ring.collect()]


@pytest.fixture
def setting() -> Iterator[Setting]:
    made = Setting()
    yield made
    made.transport.close()


@pytest.mark.spec("COM-01")
def test_status_is_zero_at_power_on(setting: Setting) -> None:
    assert setting.driver.status == 0


@pytest.mark.spec("COM-01", "COM-23")
def test_status_is_zero_after_reset_of_a_live_device(setting: Setting) -> None:
    setting.driver.start(setting.ring)

    setting.driver.status = 0

    assert setting.driver.status == 0


def test_initialization_in_order_shows_each_bit(setting: Setting) -> None:
    seen = []
    for value in (0x01, 0x03):
        setting.driver.status = value
        seen.append(setting.driver.status)
    setting.driver.accept_features(1 << 32)
    for value in (0x0B, 0x0F):
        setting.driver.status = value
        seen.append(setting.driver.status)

    assert seen == [0x01, 0x03, 0x0B, 0x0F]


@pytest.mark.spec("COM-06")
def test_bits_that_are_set_cannot_be_cleared_one_by_one(setting: Setting) -> None:
    setting.driver.start(setting.ring)

    setting.driver.status = 0x01

    assert setting.driver.status == 0x0F


@pytest.mark.spec("COM-07", "COM-32")
@pytest.mark.parametrize("value", [0x40, 0x60, 0x20, 0x10, 0x1F, 0x100, 0xFFFF_FF00])
def test_driver_cannot_set_bits_that_are_not_its_own(setting: Setting, value: int) -> None:
    setting.driver.start(setting.ring)

    setting.driver.status = value

    assert setting.driver.status == 0x0F


@pytest.mark.spec("COM-08")
@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0x02], 0x00),
        ([0x08], 0x00),
        ([0x04], 0x00),
        ([0x01, 0x09], 0x01),
        ([0x01, 0x05], 0x01),
        ([0x01, 0x03, 0x07], 0x03),
    ],
)
def test_status_bits_out_of_order_are_refused(
    setting: Setting, values: list[int], shown: int
) -> None:
    setting.driver.accept_features(1 << 32)

    for value in values:
        setting.driver.status = value

    assert setting.driver.status == shown


@pytest.mark.spec("COM-02", "COM-08")
def test_driver_ok_without_features_ok_serves_nothing(setting: Setting) -> None:
    setting.driver.status = 0x03
    setting.driver.set_up_queue(0, *setting.ring.layout)
    setting.ring.add([b"hello"], [5])

    setting.driver.status = 0x07
    setting.driver.notify(0)

    assert setting.answers() == []
    assert setting.line.edges == 0


@pytest.mark.spec("COM-02", "MMIO-18")
def test_buffers_before_driver_ok_are_left_alone(setting: Setting) -> None:
    setting.driver.negotiate()
    setting.driver.set_up_queue(0, *setting.ring.layout)
    setting.ring.add([b"early"], [5])

    setting.driver.notify(0)

    assert setting.answers() == []
    assert setting.line.edges == 0
    assert setting.transport.stats.kicks == 0


@pytest.mark.spec("COM-03")
def test_buffers_from_before_driver_ok_are_served_without_a_notification(setting: Setting) -> None:
    setting.driver.negotiate()
    setting.driver.set_up_queue(0, *setting.ring.layout)
    setting.ring.add([b"early"], [5])

    setting.driver.go_live()

    assert setting.answers() == [b"EARLY"]
    assert setting.transport.stats.kicks == 0


@pytest.mark.spec("COM-09")
def test_failed_stops_all_service(setting: Setting) -> None:
    setting.driver.start(setting.ring)
    setting.answers()

    setting.driver.status = 0x8F
    setting.ring.add([b"hello"], [5])
    setting.driver.notify(0)

    assert setting.answers() == []
    assert setting.driver.status == 0x8F
    assert setting.line.edges == 0


def test_nothing_but_a_reset_leads_on_from_failed(setting: Setting) -> None:
    setting.driver.status = 0x01
    setting.driver.status = 0x81

    setting.driver.status = 0x83

    assert setting.driver.status == 0x81


@pytest.mark.spec("COM-04", "COM-05")
def test_broken_ring_of_a_live_device_needs_a_reset_and_says_so(setting: Setting) -> None:
    setting.driver.start(setting.ring)
    setting.answers()

    setting.ring.set_avail_idx(9)
    setting.driver.notify(0)
    setting.transport.service()

    assert setting.driver.status == 0x4F
    assert setting.driver.interrupt_status == 2
    assert setting.line.edges == 1


@pytest.mark.spec("COM-05", "MMIO-12")
def test_breach_before_driver_ok_needs_a_reset_without_an_interrupt(setting: Setting) -> None:
    setting.driver.negotiate()

    setting.driver.set_up_queue(0, 3, 0x1000, 0x2000, 0x3000)

    assert setting.driver.status == 0x4B
    assert setting.driver.interrupt_status == 0
    assert setting.line.edges == 0


@pytest.mark.spec("COM-04")
def test_rings_are_left_alone_once_the_device_needs_a_reset(setting: Setting) -> None:
    setting.driver.start(setting.ring)
    setting.ring.add([b"crash"], [5])
    setting.transport.service()
    before = setting.ring.used_idx

    setting.ring.add([b"hello"], [5])
    setting.driver.notify(0)
    setting.transport.service()

    assert setting.ring.used_idx == before


@pytest.mark.spec("COM-07")
def test_echoed_needs_reset_bit_is_harmless(setting: Setting) -> None:
    setting.driver.start(setting.ring)
    setting.ring.add([b"crash"], [5])
    setting.transport.service()

    setting.driver.status = 0x4F

    assert setting.driver.status == 0x4F


def test_driver_cannot_go_live_with_a_device_that_needs_a_reset(setting: Setting) -> None:
    setting.driver.negotiate()
    setting.driver.set_up_queue(0, 3, 0x1000, 0x2000, 0x3000)

    setting.driver.go_live()

    assert setting.driver.status == 0x4B


def test_breach_by_the_driver_is_one_warning_that_names_item_and_queue(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    setting.driver.negotiate()

    setting.driver.set_up_queue(0, 16, 0x1000, 0x2000, 0x3000)

    assert caplog.messages == [
        "shout0: SPL-02: queue 0: QueueSize is 16; must be 1 to 8; the device needs a reset"
    ]
    assert caplog.records[0].levelno == logging.WARNING
    assert caplog.records[0].exc_info is None


def test_failure_of_a_handler_is_logged_with_traceback_and_queues(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    setting.driver.start(setting.ring)
    setting.ring.add([b"crash"], [5])

    setting.transport.service()

    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "RuntimeError('boom')" in record.getMessage()
    assert "queue 0: size 8 of 8, ready, next available 1, next used 0" in record.getMessage()
    assert record.exc_info is not None


@pytest.mark.parametrize("error", [RuntimeError("boom"), DriverError("SPL-13", "a loop")])
def test_failure_whose_record_is_kept_keeps_no_guest_memory(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[weakref.ref[memoryview]] = []

    class Holder(Device):
        device_id = 42

        @queue(size=8)
        def requestq(self, chain: DescriptorChain) -> int:
            views = chain.writable
            seen.extend(weakref.ref(view) for view in views)
            raise error

    setting = Setting(Holder())
    setting.driver.start(setting.ring)
    setting.ring.add([b"request"], [5])

    setting.transport.service()
    setting.transport.close()

    assert len(caplog.records) == 1
    assert [view() for view in seen] == [None]


def test_failures_over_and_over_do_not_flood_the_log(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    start = time.monotonic()
    for _ in range(100):
        setting.driver.negotiate()
        setting.driver.set_up_queue(0, 3, 0x1000, 0x2000, 0x3000)
    earned = LINES_PER_SECOND * (time.monotonic() - start)

    assert 10 <= len(caplog.records) <= 10 + earned


@pytest.mark.spec("COM-17", "COM-23")
@pytest.mark.parametrize("request_text", [b"crash", b"fine"])
def test_device_works_after_reset_from_any_state(setting: Setting, request_text: bytes) -> None:
    for status in (0x00, 0x01, 0x03, 0x0B, 0x0F, 0x8F):
        setting.driver.start(SplitDriver(setting.transport.memory, 8, base=0x8000))
        setting.driver.status = status or 1
    setting.driver.start(setting.ring)
    setting.ring.add([request_text], [5])
    setting.transport.service()

    setting.driver.status = 0
    setting.ring = SplitDriver(setting.transport.memory, 8)
    setting.driver.start(setting.ring)
    setting.ring.add([b"again"], [5])

    assert setting.answers() == [b"AGAIN"]


@pytest.mark.spec("COM-21", "MMIO-28")
def test_reset_forgets_everything_the_driver_set(setting: Setting) -> None:
    setting.driver.start(setting.ring)
    setting.ring.add([b"hello"], [5])
    setting.answers()
    setting.driver.write(0x14, 1)
    setting.driver.write(0x24, 3)
    setting.driver.write(0x30, 7)

    setting.driver.status = 0

    with Setting().transport as fresh:
        assert setting.transport.state() == fresh.state()
    assert setting.driver.interrupt_status == 0
    assert setting.line.level is False


@pytest.mark.spec("COM-17")
def test_accepted_features_are_accepted_again_after_reset(setting: Setting) -> None:
    assert [setting.driver.negotiate(1 << 32 | 1 << 29) for _ in range(100)] == [True] * 100


@pytest.mark.spec("COM-24")
def test_configuration_change_after_reset_raises_no_interrupt(setting: Setting) -> None:
    setting.driver.start(setting.ring)
    activation = setting.transport.device.activation
    assert activation is not None

    setting.driver.status = 0
    activation.notify_config()

    assert setting.driver.interrupt_status == 0
    assert setting.line.edges == 0


def test_closed_transport_stays_in_reset(setting: Setting) -> None:
    setting.driver.start(setting.ring)

    setting.transport.close()
    setting.driver.status = 0x01

    assert setting.driver.status == 0


def test_notification_after_close_is_dropped(setting: Setting) -> None:
    setting.driver.start(setting.ring)

    setting.transport.close()
    setting.transport.handle_notify(0)

    assert setting.transport.device.activation is None
