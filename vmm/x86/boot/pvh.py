"""The PVH start structures, which a kernel entered by its PVH note finds at ``rbx``.

Implements the Xen x86/HVM direct boot ABI (``xen/include/public/arch-x86/hvm/start_info.h``).
"""

import struct
from collections.abc import Sequence

from virtio.memory import GuestMemory
from vmm.x86 import layout
from vmm.x86.boot.e820 import MemoryRange
from vmm.x86.boot.initrd import LoadedInitrd

XEN_HVM_START_MAGIC_VALUE = 0x336EC578
VERSION = 1

# magic, version, flags, nr_modules; modlist, cmdline, rsdp, memmap; memmap_entries, reserved
_START_INFO = struct.Struct("<IIIIQQQQII")
# paddr, size, cmdline_paddr, reserved
_MODLIST_ENTRY = struct.Struct("<QQQQ")
# addr, size, type, reserved
_MEMMAP_ENTRY = struct.Struct("<QQII")


def write_start_info(
    memory: GuestMemory,
    initrd: LoadedInitrd | None,
    memory_map: Sequence[MemoryRange],
    rsdp: int = 0,
) -> None:
    """Write ``hvm_start_info``, its module list (the initrd, if any) and its memory map.

    ``rsdp`` is the address of ACPI's root pointer, 0 without one.
    """
    if initrd:
        module = _MODLIST_ENTRY.pack(initrd.address, initrd.size, 0, 0)
        _write(memory, layout.PVH_MODULES, module)
    entries = [_MEMMAP_ENTRY.pack(*entry, 0) for entry in memory_map]
    _write(memory, layout.PVH_MEMORY_MAP, b"".join(entries))
    start_info = _START_INFO.pack(
        *(XEN_HVM_START_MAGIC_VALUE, VERSION, 0, 1 if initrd else 0),
        *(layout.PVH_MODULES if initrd else 0, layout.COMMAND_LINE, rsdp, layout.PVH_MEMORY_MAP),
        *(len(memory_map), 0),
    )
    _write(memory, layout.PVH_START_INFO, start_info)


def _write(memory: GuestMemory, address: int, data: bytes) -> None:
    memory.view(address, len(data))[:] = data
