"""The memory map that a PC firmware would report: ACPI 6.5 "INT 15H, E820H"."""

from collections.abc import Sequence

from virtio.named_tuple import NamedTuple
from vmm.x86 import layout

E820_RAM = 1
E820_RESERVED = 2


class MemoryRange(NamedTuple):
    """``length`` bytes from ``start`` on, of an e820 type."""

    start: int
    length: int
    kind: int


def memory_map(regions: Sequence[tuple[int, int]]) -> list[MemoryRange]:
    """Return the map of a machine with RAM at ``regions``, in ascending order.

    The BIOS area at 0xe0000-0xfffff is in no entry: Linux does not use it as RAM, yet scans it.
    """
    ranges = [
        MemoryRange(0, layout.SYSTEM_DATA, E820_RAM),
        MemoryRange(layout.SYSTEM_DATA, layout.SYSTEM_DATA_END - layout.SYSTEM_DATA, E820_RESERVED),
        MemoryRange(layout.ECAM, layout.ECAM_END - layout.ECAM, E820_RESERVED),
    ]
    for start, length in regions:
        first = max(start, layout.HIGH_MEMORY)
        ranges.append(MemoryRange(first, start + length - first, E820_RAM))
    return sorted(ranges)
