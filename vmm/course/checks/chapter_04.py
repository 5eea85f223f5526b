"""Chapter 4: a serial port that sends and receives."""

import mmap
from typing import Any, Final

from vmm.course.lab import EXIT_HLT, EXIT_IO, EXIT_NAMES, Lab
from vmm.course.missing import Missing, Step, function, need

PORT: Final = 0x3F8
MOST_EXITS: Final = 5000

ECHO: Final = bytes.fromhex(
    "ba fd 03 ec a8 01 74 f8"  # wait until line status has 0x01
    "ba f8 03 ec 88 c4"  #        read the byte
    "ba fd 03 ec a8 20 74 f8"  # wait until line status has 0x20
    "ba f8 03 88 e0 ee"  #        send it
    "3c 0a 75 e0 f4"  #           again, unless it was a line feed
)


def check(mine: Any, step: Step) -> None:
    """Look at the registers, then let a guest echo a line."""
    what = "a class with receive(data), read(register), write(register, value)"
    uart = function(mine, "Uart", what)()
    _expect(uart, 5, 0x20, "nothing was received")
    uart.receive(b"ab")
    _expect(uart, 5, 0x21, "bytes wait")
    step("the line status tells that a byte has come")
    _expect(uart, 0, ord("a"), "the oldest byte is 'a'")
    _expect(uart, 0, ord("b"), "'a' was taken, and 'b' is next")
    _expect(uart, 5, 0x20, "all bytes were taken")
    _expect(uart, 0, 0, "no byte waits")
    step("reading a byte takes it out")
    uart.write(7, 0x5A)
    _expect(uart, 7, 0x5A, "0x5a was written there")
    need(uart.sent == b"", "register 7 sends what is written there, must only keep it")
    _expect(uart, 3, 0, "it is not one of ours")
    step("the scratch register keeps a byte")
    uart = mine.Uart()
    _echo(uart, b"hello, uart\n")
    step("a guest received a line and sent it back")


def _expect(uart: Any, register: int, wanted: int, when: str) -> None:
    value = uart.read(register)
    need(value == wanted, f"register {register} reads {value!r}, must be {wanted:#x}: {when}")


def _echo(uart: Any, line: bytes) -> None:
    uart.receive(line)
    with mmap.mmap(-1, 4096) as memory, Lab() as lab:
        memory[: len(ECHO)] = ECHO
        lab.add_slot(0x1000, memory)
        lab.start_at(0x1000)
        for _ in range(MOST_EXITS):
            if (reason := lab.run()) != EXIT_IO:
                break
            is_out, port, _, _, place = lab.port_access()
            if is_out:
                uart.write(port - PORT, lab.area[place])
            else:
                lab.area[place] = uart.read(port - PORT)
        else:
            raise Missing(f"the guest polls for ever; it has sent {uart.sent!r} so far")
    need(reason == EXIT_HLT, f"the guest stopped by {EXIT_NAMES.get(reason, reason)}")
    need(uart.sent == line, f"the guest sent back {uart.sent!r}, must be {line!r}")
