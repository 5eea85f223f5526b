"""Dispatch of accesses to devices by address."""

import pytest

from virtio.errors import ConfigurationError
from vmm.bus import Bus


class RecordingDevice:
    """Answers every read with ``fill`` and keeps what it was asked."""

    def __init__(self, fill: int = 0x00) -> None:
        self.fill = fill
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, bytes]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return bytes((self.fill,)) * length

    def write(self, offset: int, data: bytes) -> None:
        self.writes.append((offset, data))


def test_read_reaches_the_device_with_the_offset_from_its_base() -> None:
    bus, device = Bus("port I/O"), RecordingDevice(0x5A)
    bus.add(0x3F8, 8, device, "serial")

    data = bus.read(0x3FD, 1)

    assert data == b"\x5a"
    assert device.reads == [(5, 1)]


def test_write_reaches_the_device_with_the_offset_from_its_base() -> None:
    bus, device = Bus("MMIO"), RecordingDevice()
    bus.add(0xC0001000, 0x1000, device, "virtio0")

    bus.write(0xC0001050, b"\x01\x00\x00\x00")

    assert device.writes == [(0x50, b"\x01\x00\x00\x00")]


def test_first_and_last_byte_belong_to_the_device_and_their_neighbours_do_not() -> None:
    bus, device = Bus("port I/O"), RecordingDevice(0x11)
    bus.add(0x3F8, 8, device, "serial")

    around = [bus.read(address, 1) for address in (0x3F7, 0x3F8, 0x3FF, 0x400)]

    assert around == [b"\xff", b"\x11", b"\x11", b"\xff"]


def test_each_of_several_devices_gets_its_own_accesses() -> None:
    bus = Bus("port I/O")
    for base, fill in ((0x505, 3), (0x60, 1), (0x3F8, 2)):
        bus.add(base, 1, RecordingDevice(fill), f"device {fill}")

    answers = [bus.read(address, 1) for address in (0x60, 0x3F8, 0x505)]

    assert answers == [b"\x01", b"\x02", b"\x03"]


def test_a_device_with_two_ranges_sees_the_offsets_it_was_given() -> None:
    bus, device = Bus("port I/O"), RecordingDevice()
    bus.add(0x60, 1, device, "i8042 data")
    bus.add(0x64, 1, device, "i8042 command", offset=4)

    bus.read(0x60, 1)
    bus.read(0x64, 1)

    assert device.reads == [(0, 1), (4, 1)]


def test_unclaimed_read_gives_ones_of_the_length_asked_for() -> None:
    assert Bus("port I/O").read(0xCFC, 4) == b"\xff\xff\xff\xff"


def test_unclaimed_accesses_are_counted_by_address() -> None:
    bus = Bus("port I/O")

    bus.read(0x80, 1)
    bus.write(0x80, b"\x00")
    bus.write(0xED, b"\x00")

    assert bus.unclaimed == {0x80: 2, 0xED: 1}


def test_unclaimed_counter_stays_bounded_when_every_address_is_tried() -> None:
    bus = Bus("port I/O")

    for address in range(0x10000):
        bus.read(address, 1)

    assert len(bus.unclaimed) == 257
    assert bus.unclaimed[-1] == 0x10000 - 256


@pytest.mark.parametrize(("address", "length"), [(0x3F7, 2), (0x3FF, 2), (0x3F0, 32)])
def test_access_that_lies_partly_outside_a_device_is_unclaimed(address: int, length: int) -> None:
    bus, device = Bus("port I/O"), RecordingDevice()
    bus.add(0x3F8, 8, device, "serial")

    data = bus.read(address, length)
    bus.write(address, bytes(length))

    assert data == b"\xff" * length
    assert (device.reads, device.writes) == ([], [])
    assert bus.unclaimed == {address: 2}


def test_access_at_the_end_of_the_address_space_is_unclaimed() -> None:
    assert Bus("MMIO").read(2**64 - 1, 8) == b"\xff" * 8


@pytest.mark.parametrize(("base", "length"), [(0x3F0, 9), (0x3FF, 1), (0x3F8, 8), (0x300, 0x200)])
def test_overlap_is_refused_and_names_both_devices(base: int, length: int) -> None:
    bus = Bus("port I/O")
    bus.add(0x3F8, 8, RecordingDevice(), "serial")

    with pytest.raises(ConfigurationError, match=r"port I/O: modem at .* overlaps serial at 0x3f8"):
        bus.add(base, length, RecordingDevice(), "modem")


def test_ranges_that_only_touch_are_accepted() -> None:
    bus = Bus("port I/O")
    bus.add(0x3F8, 8, RecordingDevice(), "serial")

    bus.add(0x400, 8, RecordingDevice(), "after")
    bus.add(0x3F0, 8, RecordingDevice(), "before")

    assert bus.ranges() == [(0x3F0, 8, "before"), (0x3F8, 8, "serial"), (0x400, 8, "after")]


@pytest.mark.parametrize(("base", "length"), [(0x3F8, 0), (0x3F8, -1), (-1, 8)])
def test_empty_or_negative_range_is_refused(base: int, length: int) -> None:
    with pytest.raises(ConfigurationError, match="the length at least 1"):
        Bus("port I/O").add(base, length, RecordingDevice(), "serial")
