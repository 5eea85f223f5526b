"""Bounds of a PC: its RAM, its processors, and the ways into a kernel.

Light enough for a configuration, which is checked before anything is opened.
"""

from typing import Final, Literal

from virtio.errors import ConfigurationError
from vmm.x86.layout import HIGH_RAM, HIGH_RAM_END, LOW_RAM_END, MEBIBYTE, PAGE_SIZE

BootProtocol = Literal["auto", "pvh", "linux64"]
"""How to enter the kernel: by its PVH note, at its 64-bit entry, or by the better one it has."""

MIN_MEMORY_BYTES: Final = 4 * MEBIBYTE
MAX_MEMORY_BYTES: Final = LOW_RAM_END + HIGH_RAM_END - HIGH_RAM

MAX_CPUS: Final = 254
"""APIC IDs have 8 bits; one is the IOAPIC's, 0xff is broadcast."""


def check_memory(size_bytes: int) -> None:
    """Raise :class:`ConfigurationError` for an amount of RAM that a machine cannot have."""
    if not MIN_MEMORY_BYTES <= size_bytes <= MAX_MEMORY_BYTES:
        raise ConfigurationError(
            f"memory of {size_bytes} bytes: must be {MIN_MEMORY_BYTES >> 20}M to"
            f" {MAX_MEMORY_BYTES >> 30}G"
        )
    if size_bytes % PAGE_SIZE:
        raise ConfigurationError(f"memory of {size_bytes} bytes: must be a multiple of {PAGE_SIZE}")


def check_cpus(cpus: int) -> None:
    """Raise :class:`ConfigurationError` for a number of processors that a machine cannot have."""
    if not 1 <= cpus <= MAX_CPUS:
        raise ConfigurationError(f"{cpus} processors: must be 1 to {MAX_CPUS}")
