"""The registers behind the tables: reset, sleep, and events."""

import pytest

from virtio.errors import ConfigurationError
from vmm.x86.acpi.registers import AcpiRegisters, AcpiState


class Wired:
    """The registers, and what came of them."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.registers = AcpiRegisters(
            self, lambda: self.seen.append("reset"), lambda: self.seen.append("off")
        )

    def raise_(self) -> None:
        self.seen.append("edge")

    def lower(self) -> None: ...


def test_the_reset_value_resets_the_machine() -> None:
    wired = Wired()

    wired.registers.write(2, b"\x42")

    assert wired.seen == ["reset"]


def test_what_linux_writes_for_s5_switches_the_machine_off() -> None:
    wired = Wired()

    wired.registers.write(1, b"\x80")
    wired.registers.write(0, b"\x34")

    assert wired.seen == ["off"]


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (2, b"\x06"),  # not the reset value
        (2, b"\x42\x00"),  # not one byte
        (0, b"\x14"),  # no SLP_EN
        (0, b"\x30"),  # S4
        (0, b"\x34\x00\x00\x00"),
        (4, b"\xff\xff\xff\xff"),
        (7, b"\x34"),
        (0, b""),
    ],
)
def test_any_other_write_does_nothing(offset: int, data: bytes) -> None:
    wired = Wired()

    wired.registers.write(offset, data)

    assert wired.seen == []
    assert wired.registers.read(4, 4) == bytes(4)


def test_an_event_is_read_once_and_comes_with_an_edge() -> None:
    wired = Wired()

    wired.registers.signal(1)
    wired.registers.signal(2)

    assert wired.seen == ["edge", "edge"]
    assert wired.registers.read(4, 4) == b"\x03\x00\x00\x00"
    assert wired.registers.read(4, 4) == bytes(4)


@pytest.mark.parametrize(("offset", "length"), [(4, 1), (4, 2), (5, 4), (0, 1), (0, 8), (1, 1)])
def test_no_other_read_takes_an_event_away(offset: int, length: int) -> None:
    wired = Wired()
    wired.registers.signal(1)

    assert wired.registers.read(offset, length) == bytes(length)
    assert wired.registers.read(4, 4) == b"\x01\x00\x00\x00"


def test_restored_registers_signal_what_was_not_read() -> None:
    before, after = Wired(), Wired()
    before.registers.signal(1)

    after.registers.restore(before.registers.state())

    assert after.seen == ["edge"]
    assert after.registers.read(4, 4) == b"\x01\x00\x00\x00"


def test_restored_registers_without_news_are_silent() -> None:
    wired = Wired()

    wired.registers.restore(AcpiState(events=0))

    assert wired.seen == []


def test_restored_registers_have_no_event_that_the_tables_do_not_know() -> None:
    wired = Wired()

    wired.registers.restore(AcpiState(events=0xFFFF_FFFF))

    assert wired.registers.read(4, 4) == b"\x03\x00\x00\x00"


@pytest.mark.parametrize("events", [-1, 1 << 32, True, "1"])
def test_a_saved_value_that_no_register_has_is_refused(events: int) -> None:
    with pytest.raises(ConfigurationError, match=r"saved ACPI registers: events is"):
        Wired().registers.restore(AcpiState(events))
