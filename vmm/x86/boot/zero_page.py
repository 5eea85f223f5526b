"""The zero page: ``struct boot_params``, which the 64-bit boot protocol hands to Linux.

Implements Linux x86 zero-page.rst and boot.rst "The Real-Mode Kernel Header".
"""

import struct
from collections.abc import Sequence

from virtio.memory import GuestMemory
from vmm.x86 import layout
from vmm.x86.boot.e820 import MemoryRange
from vmm.x86.boot.initrd import LoadedInitrd
from vmm.x86.boot.kernel import LoadedKernel

SIZE = 4096
ACPI_RSDP_ADDR = 0x070
E820_ENTRIES = 0x1E8
SETUP_HEADER = 0x1F1
BOOT_FLAG = 0x1FE
HEADER = 0x202
TYPE_OF_LOADER = 0x210
RAMDISK_IMAGE = 0x218
RAMDISK_SIZE = 0x21C
CMD_LINE_PTR = 0x228
KERNEL_ALIGNMENT = 0x230
CMDLINE_SIZE = 0x238
E820_TABLE = 0x2D0

UNDEFINED_LOADER = 0xFF
ALIGNMENT = 0x0100_0000

_E820_ENTRY = struct.Struct("<QQI")


def write_zero_page(
    memory: GuestMemory,
    kernel: LoadedKernel,
    initrd: LoadedInitrd | None,
    memory_map: Sequence[MemoryRange],
    rsdp: int = 0,
) -> None:
    """Write the zero page for a kernel whose command line stands at its place in the layout.

    ``rsdp`` is the address of ACPI's root pointer, 0 without one.

    All bytes not set stay zero, among them ``sentinel`` (0x1ef): otherwise Linux would distrust the
    page and clear parts of it.
    """
    page = bytearray(SIZE)
    if kernel.setup_header is None:
        _write_own_header(page, kernel)
    else:
        page[SETUP_HEADER : SETUP_HEADER + len(kernel.setup_header)] = kernel.setup_header
    struct.pack_into("<Q", page, ACPI_RSDP_ADDR, rsdp)
    page[TYPE_OF_LOADER] = UNDEFINED_LOADER
    struct.pack_into("<I", page, CMD_LINE_PTR, layout.COMMAND_LINE)
    if initrd:
        struct.pack_into("<II", page, RAMDISK_IMAGE, initrd.address, initrd.size)
    page[E820_ENTRIES] = len(memory_map)
    for index, entry in enumerate(memory_map):
        _E820_ENTRY.pack_into(page, E820_TABLE + index * _E820_ENTRY.size, *entry)
    memory.view(layout.ZERO_PAGE, SIZE)[:] = page


def _write_own_header(page: bytearray, kernel: LoadedKernel) -> None:
    """Write what Linux reads of the setup header that an ELF kernel does not bring along."""
    struct.pack_into("<H", page, BOOT_FLAG, 0xAA55)
    page[HEADER : HEADER + 4] = b"HdrS"
    struct.pack_into("<I", page, KERNEL_ALIGNMENT, ALIGNMENT)
    struct.pack_into("<I", page, CMDLINE_SIZE, kernel.cmdline_max)
