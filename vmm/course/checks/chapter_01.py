"""Chapter 1: code that adds three numbers."""

import mmap
from typing import Any, Final

from vmm.course.lab import EXIT_HLT, EXIT_IO, EXIT_NAMES, Lab
from vmm.course.missing import Step, code, need

PORT: Final = 0x10
CASES: Final = ((1, 0, 0), (1, 2, 0), (1, 2, 4), (100, 20, 3), (200, 100, 1))


def check(mine: Any, step: Step) -> None:
    """Run the code on several numbers."""
    instructions = code(mine)
    step(f"CODE has {len(instructions)} bytes")
    for case in CASES:
        sent = _run(instructions, case)
        text = "{} + {} + {}".format(*case)
        wanted = sum(case) & 0xFF
        need(bool(sent), f"for {text} nothing was sent: use out dx, al with 0x10 in DX")
        need(len(sent) == 1, f"for {text} {len(sent)} bytes were sent, must be one")
        need(sent[0] != wanted + ord("0"), f"for {text} a character was sent, must be the number")
        need(
            case[2] == 0 or sent[0] != (case[0] + case[1]) & 0xFF,
            f"for {text} {sent[0]} was sent: CL is not in the sum",
        )
        need(sent[0] == wanted, f"for {text} {sent[0]} was sent, must be {wanted}")
        step(f"{text} is {wanted}")


def _run(instructions: bytes, case: tuple[int, int, int]) -> bytes:
    with mmap.mmap(-1, 4096) as memory, Lab() as lab:
        memory[: len(instructions)] = instructions
        lab.add_slot(0x1000, memory)
        al, bl, cl = case
        lab.start_at(0x1000, rax=al, rbx=bl, rcx=cl)
        sent = b""
        while (reason := lab.run()) == EXIT_IO:
            is_out, port, size, count, place = lab.port_access()
            need(is_out, "the code reads from a port, must only write")
            need(port == PORT, f"the code uses port {port:#x}, must be 0x10: set DX")
            need(size == 1, f"the code sends {size} bytes at once, must be one: out dx, al")
            sent += lab.area[place : place + size * count]
            need(len(sent) < 64, "the code sends bytes without end: halt after the first")
        need(
            reason == EXIT_HLT,
            f"the code ends by {EXIT_NAMES.get(reason, reason)}, must be by hlt: after your last"
            " instruction the processor runs whatever is in memory",
        )
        return sent
