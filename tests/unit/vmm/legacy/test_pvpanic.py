"""The pvpanic port."""

import pytest

from vmm.legacy.pvpanic import Pvpanic


def test_read_offers_panicked_crash_loaded_and_shutdown() -> None:
    assert Pvpanic(lambda events: None).read(0, 1) == b"\x07"


@pytest.mark.parametrize("length", [2, 4, 8])
def test_wide_read_is_padded_to_its_length(length: int) -> None:
    assert Pvpanic(lambda events: None).read(0, length) == b"\x07" + bytes(length - 1)


@pytest.mark.parametrize(("written", "reported"), [(1, 1), (2, 2), (4, 4), (0xF9, 1), (0xFF, 7)])
def test_write_reports_the_events_that_were_offered(written: int, reported: int) -> None:
    events: list[int] = []

    Pvpanic(events.append).write(0, bytes((written,)))

    assert events == [reported]


@pytest.mark.parametrize(("offset", "data"), [(0, b"\x00"), (0, b"\xf8"), (0, b""), (1, b"\x01")])
def test_write_without_an_offered_event_reports_nothing(offset: int, data: bytes) -> None:
    events: list[int] = []

    Pvpanic(events.append).write(offset, data)

    assert events == []
