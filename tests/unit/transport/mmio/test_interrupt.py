"""The shared interrupt of a virtio-mmio device: bits, line, and what of it is saved."""

import pytest

from transport.mmio.interrupt import MmioInterrupt
from transport.testing import RecordingLine
from virtio.errors import ConfigurationError


@pytest.fixture
def line() -> RecordingLine:
    return RecordingLine()


@pytest.fixture
def interrupt(line: RecordingLine) -> MmioInterrupt:
    made = MmioInterrupt(line)
    made.enable()
    return made


def test_all_queues_share_a_bit_and_the_configuration_has_its_own(
    interrupt: MmioInterrupt, line: RecordingLine
) -> None:
    interrupt.used(0)
    interrupt.used(7)
    queues_only = interrupt.status
    interrupt.config()

    assert (queues_only, interrupt.status, line.edges) == (1, 3, 3)
    assert (interrupt.used_count, interrupt.config_count) == (2, 1)


def test_nothing_is_signalled_or_counted_before_it_is_enabled(line: RecordingLine) -> None:
    interrupt = MmioInterrupt(line)

    interrupt.used(0)
    interrupt.config()

    assert (interrupt.status, line.edges) == (0, 0)
    assert (interrupt.used_count, interrupt.config_count) == (0, 0)


def test_disabled_interrupt_keeps_what_is_pending_and_takes_nothing_more(
    interrupt: MmioInterrupt, line: RecordingLine
) -> None:
    interrupt.used(0)

    interrupt.disable()
    interrupt.config()

    assert (interrupt.status, line.level, line.edges) == (1, True, 1)


def test_reset_drops_what_is_pending_and_lowers_the_line(
    interrupt: MmioInterrupt, line: RecordingLine
) -> None:
    interrupt.used(0)

    interrupt.reset()
    interrupt.used(0)

    assert (interrupt.status, line.level, line.edges) == (0, False, 1)


@pytest.mark.parametrize(("pending", "level"), [(0, False), (1, True), (2, True), (3, True)])
def test_restored_interrupt_signals_what_was_pending(
    line: RecordingLine, pending: int, level: bool
) -> None:
    interrupt = MmioInterrupt(line)

    interrupt.restore({"status": pending})

    assert (interrupt.state(), line.level) == ({"status": pending}, level)


@pytest.mark.parametrize("state", [{}, {"status": 4}, {"status": -1}, {"status": 1.0}])
def test_state_that_no_interrupt_has_is_refused(
    line: RecordingLine, state: dict[str, object]
) -> None:
    with pytest.raises(ConfigurationError, match="saved interrupt status is"):
        MmioInterrupt(line).restore(state)

    assert line.edges == 0


def test_description_tells_the_bits(interrupt: MmioInterrupt) -> None:
    interrupt.config()

    assert interrupt.describe() == "interrupt status 0x2"
