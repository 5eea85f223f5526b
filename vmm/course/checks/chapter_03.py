"""Chapter 3: a window of two registers."""

import mmap
import struct
from typing import Any, Final

from vmm.course.lab import EXIT_HLT, EXIT_MMIO, EXIT_NAMES, Lab
from vmm.course.missing import Step, function, need

WINDOW: Final = 0xA000
MAGIC: Final = 0x7472_6976

_LOAD: Final = {1: b"\xa0", 2: b"\xa1", 4: b"\x66\xa1"}
_STORE: Final = {1: b"\xa2", 2: b"\xa3", 4: b"\x66\xa3"}


def check(mine: Any, step: Step) -> None:
    """Have a guest read and write the registers."""
    device = function(mine, "Registers", "a class with read(offset, length), write(offset, data)")()
    _expect(device, 0, 4, MAGIC, "the register at offset 0")
    step("offset 0 reads as 0x74726976")
    _expect(device, 4, 4, 0, "the register at offset 4, before any write")
    _store(device, 4, 4, 0x1234_5678)
    _expect(device, 4, 4, 0x1234_5678, "offset 4 after 0x12345678 was written there")
    step("offset 4 keeps what was written")
    _expect(device, 4, 1, 0x78, "the byte at offset 4, the lowest of 0x12345678")
    _expect(device, 6, 2, 0x1234, "two bytes at offset 6, the upper half of 0x12345678")
    _expect(device, 1, 1, 0x69, "the byte at offset 1")
    step("parts of a register can be read")
    _store(device, 5, 1, 0xAB)
    _expect(device, 4, 4, 0x1234_AB78, "0x12345678 after byte 0xab was written at offset 5")
    step("parts of a register can be written")
    _store(device, 0, 4, 0)
    _expect(device, 0, 4, MAGIC, "offset 0, which cannot be changed, after a write of 0")
    _store(device, 8, 4, 0xFFFF_FFFF)
    _expect(device, 8, 4, 0, "offset 8, where no register is, after a write")
    _expect(device, 4, 4, 0x1234_AB78, "offset 4 after writes to offsets 0 and 8")
    step("nothing else can be written")


def _expect(device: Any, offset: int, length: int, wanted: int, what: str) -> None:
    code = _LOAD[length] + struct.pack("<H", WINDOW + offset)
    value = _run(device, code) & (1 << 8 * length) - 1
    need(value == wanted, f"{what}: the guest reads {value:#x}, must be {wanted:#x}")


def _store(device: Any, offset: int, length: int, value: int) -> None:
    _run(device, _STORE[length] + struct.pack("<H", WINDOW + offset), value)


def _run(device: Any, code: bytes, value: int = 0) -> int:
    """Run one instruction and return rax behind it."""
    with mmap.mmap(-1, 4096) as memory, Lab() as lab:
        memory[: len(code) + 1] = code + b"\xf4"
        lab.add_slot(0x1000, memory)
        lab.start_at(0x1000, rax=value)
        while (reason := lab.run()) == EXIT_MMIO:
            is_write, address, length = lab.memory_access()
            offset = address - WINDOW
            if is_write:
                device.write(offset, bytes(lab.area[40 : 40 + length]))
                continue
            data = device.read(offset, length)
            what = f"read({offset}, {length}) returned"
            need(isinstance(data, bytes | bytearray), f"{what} {data!r}, must be bytes")
            need(len(data) == length, f"{what} {len(data)} bytes, must be {length}")
            lab.area[40 : 40 + length] = bytes(data)
        need(reason == EXIT_HLT, f"the guest stopped by {EXIT_NAMES.get(reason, reason)}")
        return lab.registers()["rax"]
