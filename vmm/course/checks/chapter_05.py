"""Chapter 5: page tables of four levels."""

import mmap
import struct
from typing import Any, Final

from vmm.course.lab import EXIT_HLT, EXIT_NAMES, Lab
from vmm.course.missing import Missing, Step, function, need

TABLES: Final = (0x1000, 0x2000, 0x3000, 0x4000)
LEVELS: Final = ((39, "first"), (30, "second"), (21, "third"), (12, "fourth"))
ADDRESS: Final = 0x000F_FFFF_FFFF_F000
CASES: Final = ((0x40_0000_0000, 0x8000), (0x7FFF_DEAD_B000, 0x9000), (0x1000, 0xA000))
MEMORY: Final = 0x1_0000

CODE: Final = bytes.fromhex(
    "48 8d 1d 00 01 00 00"  # lea rbx, [rip + 0x100]
    "48 c7 03 2a 00 00 00"  # mov qword [rbx], 42
    "f4"
)
STORED: Final = 7 + 0x100


def check(mine: Any, step: Step) -> None:
    """Walk the tables as a processor does, then have one do it."""
    tables = function(mine, "tables", "tables(virtual, physical)")
    for virtual, physical in CASES:
        entries = tables(virtual, physical)
        need(isinstance(entries, dict), f"tables returned {entries!r}, must be a dictionary")
        _walk(entries, virtual, physical)
        step(f"{virtual:#x} leads to {physical:#x}")
        _run(entries, virtual, physical)
        step(f"a guest ran at {virtual:#x} and wrote there")


def _walk(entries: dict[int, int], virtual: int, physical: int) -> None:
    table = TABLES[0]
    for shift, level in LEVELS:
        index = virtual >> shift & 511
        entry = entries.get(table + 8 * index)
        where = f"{virtual:#x}: the {level} level, index {index} of the table at {table:#x}"
        if entry is None:
            raise Missing(f"{where}, has no entry: its address is {table + 8 * index:#x}")
        need(isinstance(entry, int), f"{where}, is {entry!r}, must be a number")
        need(bool(entry & 1), f"{where}, is not present: it lacks flag 1")
        need(bool(entry & 2), f"{where}, is not writable: it lacks flag 2")
        need(not entry & 0x80, f"{where}, has flag 0x80, and is not one of 4096 bytes")
        table = entry & ADDRESS
        if shift > LEVELS[-1][0]:
            need(table in TABLES[1:], f"{where}, leads to {table:#x}, which is none of the tables")
    need(table == physical, f"{virtual:#x} leads to {table:#x}, must be {physical:#x}")


def _run(entries: dict[int, int], virtual: int, physical: int) -> None:
    with mmap.mmap(-1, MEMORY) as memory, Lab() as lab:
        for address, entry in entries.items():
            need(0 <= address <= MEMORY - 8, f"an entry is at {address:#x}, which is in no table")
            struct.pack_into("<Q", memory, address, entry & (1 << 64) - 1)
        memory[physical : physical + len(CODE)] = CODE
        lab.add_slot(0, memory)
        special = lab.special_registers()
        special[0:24] = struct.pack("<QIH10B", 0, 0xFFFF_FFFF, 8, 11, 1, 0, 0, 1, 1, 1, 0, 0, 0)
        data = struct.pack("<QIH10B", 0, 0xFFFF_FFFF, 16, 3, 1, 0, 1, 1, 0, 1, 0, 0, 0)
        special[24:144] = 5 * data
        struct.pack_into("<6Q", special, 224, 0x8001_0011, 0, TABLES[0], 0x20, 0, 0x500)
        lab.set_special_registers(special)
        lab.set_registers(rip=virtual)
        reason = lab.run()
        need(
            reason == EXIT_HLT,
            f"the guest at {virtual:#x} stopped by {EXIT_NAMES.get(reason, reason)}, must halt",
        )
        value = memory[physical + STORED]
        need(value == 42, f"the guest wrote 42 to its page, which has {value}")
