"""Bounds of a PC: its RAM, its processors, and the ways into a kernel.

Light enough for a configuration, which is checked before anything is opened.
"""

from typing import Final, Literal

from virtio.errors import ConfigurationError
from vmm.topology import CpuTopology
from vmm.x86.apic_ids import highest_vcpu_id
from vmm.x86.layout import HIGH_RAM, HIGH_RAM_END, LOW_RAM_END, MEBIBYTE, PAGE_SIZE

BootProtocol = Literal["auto", "pvh", "linux64", "elf64", "multiboot", "multiboot2"]
"""How to enter the kernel: by its PVH note, at its 64-bit entry as Linux is or as any other ELF
program, as its Multiboot header says, or by what fits the file best.
"""

MIN_MEMORY_BYTES: Final = 4 * MEBIBYTE
MAX_MEMORY_BYTES: Final = LOW_RAM_END + HIGH_RAM_END - HIGH_RAM

MAX_CPUS: Final = 254
"""APIC IDs have 8 bits; one is the IOAPIC's, 0xff is broadcast.

With x2APIC an ID has 32, but the entries of KVM's IOAPIC keep 8: no interrupt of a device would
reach a processor past them, and Linux leaves such processors alone.
"""


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


def check_vcpu_ids(topology: CpuTopology) -> None:
    """Raise :class:`ConfigurationError` for a topology whose numbers need more bits than IDs have.

    Numbers of cores and threads that are no power of 2 leave gaps between the IDs.
    """
    last = highest_vcpu_id(topology)
    if last >= MAX_CPUS:
        raise ConfigurationError(
            f"processors {topology}: their APIC IDs go up to {last}, {MAX_CPUS - 1} is the last one"
        )
