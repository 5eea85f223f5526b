"""Chapter 6: the page that Linux is handed. Linux x86 boot.rst, zero-page.rst."""

import struct
from typing import Any, Final

from vmm.course.missing import Step, function, need

LOW_END, HIGH_START = 0x9_FC00, 0x10_0000
CASES: Final = ((64 << 20, 0x2_0000), (1 << 30, 0x9000))
SET: Final = {*(0x1E8, 0x210), *range(0x1FE, 0x200), *range(0x202, 0x206), *range(0x228, 0x22C)}


def check(mine: Any, step: Step) -> None:
    """Read the page as Linux does."""
    zero_page = function(mine, "zero_page", "zero_page(ram, command_line)")
    for ram, command_line in CASES:
        page = zero_page(ram, command_line)
        need(isinstance(page, bytes | bytearray), f"zero_page returned {page!r:.40}, must be bytes")
        need(len(page) == 4096, f"the page has {len(page)} bytes, must be 4096")
        _header(page, command_line)
        step(f"the header is right for a command line at {command_line:#x}")
        _memory_map(page, ram)
        step(f"the memory map is right for {ram >> 20} MiB")


def _header(page: bytes, command_line: int) -> None:
    [flag] = struct.unpack_from("<H", page, 0x1FE)
    need(flag == 0xAA55, f"0x1fe has {flag:#x}, must be 0xaa55")
    need(page[0x202:0x206] == b"HdrS", f"0x202 has {page[0x202:0x206]!r}, must be b'HdrS'")
    need(page[0x210] == 0xFF, f"0x210 has {page[0x210]:#x}, must be 0xff: Linux wants a loader")
    [address] = struct.unpack_from("<I", page, 0x228)
    need(
        address == command_line,
        f"0x228 has {address:#x}, must be {command_line:#x}, the command line's address",
    )


def _memory_map(page: bytes, ram: int) -> None:
    count = page[0x1E8]
    need(count > 0, "0x1e8 is 0: the memory map has no entry, so Linux finds no RAM")
    need(count <= 128, f"the memory map has {count} entries, at most 128 fit in")
    entries = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * index) for index in range(count)]
    usable = sorted((start, start + length) for start, length, kind in entries if kind == 1)
    need(bool(usable), "no entry of the memory map is of kind 1, RAM")
    for start, end in usable:
        hole = start < HIGH_START and end > LOW_END
        need(not hole, f"RAM from {start:#x} to {end:#x} covers what is no RAM below 0x100000")
        need(end <= ram, f"RAM from {start:#x} to {end:#x} is longer than the {ram:#x} bytes")
    wanted = [(0, LOW_END), (HIGH_START, ram)]
    found = " and ".join(f"{start:#x} to {end:#x}" for start, end in usable)
    need(usable == wanted, f"RAM is {found}, must be 0x0 to 0x9fc00 and 0x100000 to {ram:#x}")
    rest = SET | set(range(0x2D0, 0x2D0 + 20 * count))
    other = [place for place, value in enumerate(page) if value and place not in rest]
    need(not other, f"the byte at {other[0] if other else 0:#x} is not 0, and must be")
