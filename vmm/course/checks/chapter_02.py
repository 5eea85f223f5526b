"""Chapter 2: the table of memory slots, in Python."""

import mmap
import struct
from typing import Any, Final

from vmm.course.lab import EXIT_MMIO, Lab
from vmm.course.missing import Missing, Step, function, need

PAGE: Final = 4096
CODE_AT: Final = 0x1000

SLOTS: Final = ((0x3000, PAGE, PAGE), (0x8000, 2 * PAGE, 2 * PAGE), (0x6000, PAGE, 0))
"""Not in the order of addresses, neither here nor in the file; the last offset is 0."""

QUESTIONS: Final = (
    *((0x3000, "the first byte of a slot"), (0x3005, "a byte inside of a slot")),
    *((0x3FFF, "the last byte of a slot"), (0x4000, "the first byte behind a slot")),
    *((0x2FFF, "the last byte before a slot"), (0x7800, "a byte between two slots")),
    *((0x9123, "the second page of a slot"), (0xA000, "the first byte behind two pages")),
    *((0x6001, "a slot listed last"), (0x6000, "the first byte of the file")),
)


def check(mine: Any, step: Step) -> None:
    """Compare the reader's answers with those of a guest."""
    find = function(mine, "find", "find(slots, address)")
    for address, what in QUESTIONS:
        answer = find(list(SLOTS), address)
        wanted = _seen_by_a_guest(address)
        where = f"address {address:#x}, {what}"
        if wanted is None:
            need(answer is None, f"{where}: {answer!r}, must be None: the guest finds a hole there")
        else:
            need(answer is not None, f"{where}: None, must be {wanted}: a slot has it")
            need(answer == wanted, f"{where}: {answer!r}, must be {wanted}")
        step(f"{where}: {wanted}")


def _seen_by_a_guest(address: int) -> int | None:
    """Return which byte of the file a guest reads at an address, by reading the word there."""
    found = 0
    for bit in range(14):  # which bits the offset has: byte n of the file shows one bit of n
        value = _read(address, bytes(offset >> bit & 1 for offset in range(4 * PAGE)))
        if value is None:
            return None
        found |= value << bit
    return found


def _read(address: int, content: bytes) -> int | None:
    pages = [mmap.mmap(-1, size) for _, size, _ in SLOTS]
    with mmap.mmap(-1, PAGE) as program, Lab() as lab:
        program[:4] = b"\xa0" + struct.pack("<H", address) + b"\xf4"  # mov al, [address]; hlt
        lab.add_slot(CODE_AT, program)
        for page, (guest_address, size, offset) in zip(pages, SLOTS, strict=True):
            page[:] = content[offset : offset + size]
            lab.add_slot(guest_address, page)
        lab.start_at(CODE_AT)
        if lab.run() == EXIT_MMIO:
            return None
        value = lab.registers()["rax"] & 0xFF
    if value > 1:
        raise Missing(f"the guest read {value} at {address:#x}, which is in no page")
    return value
