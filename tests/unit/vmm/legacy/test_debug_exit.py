"""The port by which a guest ends the machine."""

import pytest

from vmm.legacy.debug_exit import DebugExit


@pytest.mark.parametrize("data", [b"\x2a", b"\x2a\x01", b"\x2a\x01\x02\x03"])
def test_the_low_byte_of_a_write_becomes_the_status(data: bytes) -> None:
    statuses: list[int] = []

    DebugExit(statuses.append).write(0, data)

    assert statuses == [42]


def test_status_zero_is_reported_too() -> None:
    statuses: list[int] = []

    DebugExit(statuses.append).write(0, b"\x00")

    assert statuses == [0]


@pytest.mark.parametrize(("offset", "data"), [(1, b"\x2a"), (3, b"\x2a"), (0, b"")])
def test_other_writes_are_ignored(offset: int, data: bytes) -> None:
    statuses: list[int] = []

    DebugExit(statuses.append).write(offset, data)

    assert statuses == []


def test_reads_give_ones_and_do_not_end_anything() -> None:
    statuses: list[int] = []

    data = DebugExit(statuses.append).read(0, 4)

    assert (data, statuses) == (b"\xff\xff\xff\xff", [])
