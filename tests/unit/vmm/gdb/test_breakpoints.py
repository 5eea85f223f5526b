"""Breakpoints in guest memory: set, hidden, lifted, taken out."""

import pytest

from virtio.errors import ConfigurationError
from virtio.memory import FlatMemory
from vmm.gdb.breakpoints import Breakpoints
from vmm.x86 import HardwareBreakpoint


@pytest.fixture
def ram() -> bytearray:
    return bytearray(range(64))


@pytest.fixture
def breakpoints(ram: bytearray) -> Breakpoints:
    return Breakpoints(FlatMemory([(0, ram)]))


def low(address: int) -> int | None:
    """Map two virtual pages onto the first 64 bytes of memory."""
    return address % 64 if address < 128 else None


def test_a_breakpoint_is_in_memory_and_readers_do_not_see_it(
    ram: bytearray, breakpoints: Breakpoints
) -> None:
    breakpoints.insert_software(5, low)
    read = bytearray(ram[:8])
    breakpoints.hide(0, read)

    assert ram[5] == 0xCC
    assert read == bytes(range(8))


def test_where_nothing_is_mapped_there_can_be_none(breakpoints: Breakpoints) -> None:
    with pytest.raises(ConfigurationError, match="address 0x200: nothing is mapped there"):
        breakpoints.insert_software(0x200, low)


def test_two_addresses_of_one_byte_share_it_until_the_last_goes(
    ram: bytearray, breakpoints: Breakpoints
) -> None:
    breakpoints.insert_software(5, low)
    breakpoints.insert_software(69, low)
    breakpoints.remove_software(5)
    still = ram[5]
    breakpoints.remove_software(69)

    assert (still, ram[5]) == (0xCC, 5)


def test_what_a_debugger_writes_over_a_breakpoint_is_there_without_it(
    ram: bytearray, breakpoints: Breakpoints
) -> None:
    breakpoints.insert_software(5, low)
    data = bytearray(b"abc")
    breakpoints.keep(4, data)
    ram[4:7] = data
    during = ram[5]
    breakpoints.clear()

    assert during == 0xCC
    assert ram[4:7] == b"abc"


def test_code_that_the_guest_replaced_stays_the_guests(
    ram: bytearray, breakpoints: Breakpoints
) -> None:
    breakpoints.insert_software(5, low)
    ram[5] = 0x90
    breakpoints.clear()

    assert ram[5] == 0x90


def test_a_copy_of_memory_can_be_made_without_them(
    ram: bytearray, breakpoints: Breakpoints
) -> None:
    breakpoints.insert_software(5, low)
    with breakpoints.lifted():
        copy = bytes(ram)

    assert copy[5] == 5
    assert ram[5] == 0xCC


def test_watched_memory_tells_of_each_change_once(ram: bytearray, breakpoints: Breakpoints) -> None:
    breakpoints.insert_watched(8, 4, low)
    [watched] = breakpoints.watched
    before = watched.changed()
    ram[9] = 77

    assert (before, watched.changed(), watched.changed()) == (False, True, False)


def test_there_are_four_debug_registers_for_what_is_aligned(breakpoints: Breakpoints) -> None:
    for number in range(4):
        breakpoints.insert_hardware(HardwareBreakpoint("execute", number, 1))

    with pytest.raises(ConfigurationError, match="4 debug registers are in use already"):
        breakpoints.insert_hardware(HardwareBreakpoint("execute", 9, 1))
    with pytest.raises(ConfigurationError, match=r"4 bytes at 0x2: .* that are aligned"):
        breakpoints.insert_hardware(HardwareBreakpoint("write", 2, 4))
