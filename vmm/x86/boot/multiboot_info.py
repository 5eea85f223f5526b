"""The information that a kernel with a Multiboot header finds at ``ebx``, in both versions.

Implements the Multiboot Specification 0.6.96 and the Multiboot2 Specification 2.0, "Boot
information format".
"""

import struct
from collections.abc import Sequence
from typing import Final

from virtio.errors import InternalError
from virtio.memory import GuestMemory
from vmm.x86 import layout
from vmm.x86.boot.e820 import MemoryRange
from vmm.x86.boot.initrd import LoadedInitrd

LOADER_NAME: Final = b"pyvmm\0"
MODULE_NAME: Final = b"initrd\0"

_HAS_MEMORY, _HAS_CMDLINE, _HAS_MODULES, _HAS_MAP, _HAS_NAME = (
    1 << 0,
    1 << 2,
    1 << 3,
    1 << 6,
    1 << 9,
)

# flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length,
# mmap_addr, drives_length, drives_addr, config_table, boot_loader_name, and what only APM and VBE
# have.
_INFO: Final = struct.Struct("<7I16x6I48x")
# start, end, string, reserved
_MODULE: Final = struct.Struct("<IIII")
# size of the rest, base, length, type
_MAP_ENTRY: Final = struct.Struct("<IQQI")
# base, length, type, reserved
_MAP_ENTRY_2: Final = struct.Struct("<QQII")
_TAG: Final = struct.Struct("<II")

_TAG_ALIGNMENT: Final = 8
_RSDP_1_BYTES, _RSDP_2_BYTES = 20, 36


def write_multiboot_info(
    memory: GuestMemory, initrd: LoadedInitrd | None, memory_map: Sequence[MemoryRange]
) -> None:
    """Write the structure of version 1, with what it points to right behind it.

    Its kernels look for ACPI's root pointer by themselves, from 0xe0000 on.
    """
    start = layout.MULTIBOOT_INFO
    name = start + _INFO.size
    module_name = name + len(LOADER_NAME)
    modules = module_name + len(MODULE_NAME) + 3  # aligned to 4
    entries = modules + _MODULE.size
    body = b"".join(_MAP_ENTRY.pack(_MAP_ENTRY.size - 4, *one) for one in memory_map)
    module = bytes(_MODULE.size)
    flags = _HAS_MEMORY | _HAS_CMDLINE | _HAS_MODULES | _HAS_MAP | _HAS_NAME
    if initrd:
        module = _MODULE.pack(initrd.address, initrd.address + initrd.size, module_name, 0)
    info = _INFO.pack(
        *(flags, *_basic_memory(memory_map), 0, layout.COMMAND_LINE),
        *(1 if initrd else 0, modules),
        *(len(body), entries, 0, 0, 0, name),
    )
    _write(memory, info + LOADER_NAME + MODULE_NAME + bytes(3) + module + body)


def write_multiboot2_info(
    memory: GuestMemory,
    initrd: LoadedInitrd | None,
    memory_map: Sequence[MemoryRange],
    cmdline: bytes,
    rsdp: int = 0,
) -> None:
    """Write the tags of version 2; ``rsdp`` is the address of ACPI's root pointer, 0 without it."""
    entries = b"".join(_MAP_ENTRY_2.pack(*one, 0) for one in memory_map)
    tags = [
        _tag(1, cmdline + b"\0"),
        _tag(2, LOADER_NAME),
        _tag(4, struct.pack("<II", *_basic_memory(memory_map))),
        _tag(6, struct.pack("<II", _MAP_ENTRY_2.size, 0) + entries),
    ]
    if initrd:
        place = struct.pack("<II", initrd.address, initrd.address + initrd.size)
        tags.append(_tag(3, place + MODULE_NAME))
    if rsdp:
        pointer = bytes(memory.view(rsdp, _RSDP_2_BYTES))
        tags += [_tag(14, pointer[:_RSDP_1_BYTES]), _tag(15, pointer)]
    tags.append(_tag(0, b""))
    _write(memory, struct.pack("<II", _TAG.size + sum(map(len, tags)), 0) + b"".join(tags))


def _tag(kind: int, body: bytes) -> bytes:
    size = _TAG.size + len(body)
    return _TAG.pack(kind, size) + body + bytes(-size % _TAG_ALIGNMENT)


def _basic_memory(memory_map: Sequence[MemoryRange]) -> tuple[int, int]:
    """Return the KiB of RAM below 1 MiB, and from there on."""
    sizes = {one.start: one.length >> 10 for one in memory_map}
    return sizes[0], sizes.get(layout.HIGH_MEMORY, 0)


def _write(memory: GuestMemory, data: bytes) -> None:
    if layout.MULTIBOOT_INFO + len(data) > layout.MULTIBOOT_INFO_END:
        raise InternalError(f"the Multiboot information has {len(data)} bytes")
    memory.view(layout.MULTIBOOT_INFO, len(data))[:] = data
