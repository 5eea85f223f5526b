"""Loads a kernel, whatever its file is: ``vmlinux`` or bzImage, for PVH or 64-bit entry.

A bzImage is unpacked on the host and its ELF kernel loaded, so that the guest never runs the
decompressor; its setup header is kept for the zero page. Implements the loader's side of
Linux x86 boot.rst "64-bit Boot Protocol".
"""

import os
from typing import Literal

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.x86 import layout
from vmm.x86.boot.bzimage import SetupHeader, is_bzimage, read_setup_header
from vmm.x86.boot.elf import ELF_MAGIC, Elf, check_entry, load_elf, read_elf
from vmm.x86.boot.image_file import BootMemory, ImageFile, open_image
from vmm.x86.limits import BootProtocol

Protocol = Literal["pvh", "linux64"]

# COMMAND_LINE_SIZE of Linux on x86, less the NUL: what a bare vmlinux takes.
CMDLINE_MAX = 2047


class LoadedKernel(NamedTuple):
    """A kernel in guest memory, at ``[start, end)``, and how to enter it.

    ``setup_header`` is that of a bzImage, None of a bare ELF file. ``cmdline_max`` counts bytes
    without the NUL; ``initrd_addr_max`` is the last address that an initrd may occupy.
    """

    entry: int
    protocol: Protocol
    start: int
    end: int
    setup_header: bytes | None = None
    cmdline_max: int = CMDLINE_MAX
    initrd_addr_max: int = layout.LOW_RAM_END - 1


def load_kernel(
    file: str | os.PathLike[str], memory: BootMemory, *, protocol: BootProtocol = "auto"
) -> LoadedKernel:
    """Load the kernel image ``file`` into guest memory.

    ``auto`` enters by PVH where the kernel has a PVH entry note, by the 64-bit protocol elsewhere.
    Raises :class:`ConfigurationError` that says why the file cannot be booted.
    """
    with open_image(file, "kernel") as image:
        if is_bzimage(image):
            return _load_bzimage(image, memory, protocol)
        if image.read(0, 4) == ELF_MAGIC:
            return _load_elf(image, memory, protocol, None)
        from vmm.x86.boot.lookalike import looks_like

        raise ConfigurationError(
            f"{image.name}: is not an x86 kernel (neither ELF vmlinux nor bzImage): "
            f"it looks like {looks_like(image)}"
        )


def _load_bzimage(image: ImageFile, memory: BootMemory, protocol: BootProtocol) -> LoadedKernel:
    from vmm.x86.boot.payload import unpacked

    header = read_setup_header(image)
    with unpacked(image, header.payload_offset, header.payload_length) as vmlinux:
        return _load_elf(vmlinux, memory, protocol, header)


def _load_elf(
    image: ImageFile, memory: BootMemory, choice: BootProtocol, header: SetupHeader | None
) -> LoadedKernel:
    elf = read_elf(image)
    protocol, entry = _entry(image, elf, choice)
    load_elf(image, elf, memory)
    if header is None:
        return LoadedKernel(entry, protocol, elf.start, elf.end)
    return LoadedKernel(
        entry,
        protocol,
        elf.start,
        elf.end,
        header.raw,
        min(header.cmdline_size, layout.COMMAND_LINE_SIZE - 1),
        header.initrd_addr_max,
    )


def _entry(image: ImageFile, elf: Elf, choice: BootProtocol) -> tuple[Protocol, int]:
    if choice == "pvh" and elf.pvh_entry is None:
        raise ConfigurationError(
            f"{image.name}: has no PVH entry note (CONFIG_PVH); boot it with protocol linux64"
        )
    if choice != "linux64" and elf.pvh_entry is not None:
        check_entry(image, elf, elf.pvh_entry, "PVH entry")
        return "pvh", elf.pvh_entry
    check_entry(image, elf, elf.entry, "entry")
    if elf.end > layout.IDENTITY_MAP_END:
        raise ConfigurationError(
            f"{image.name}: ends at {elf.end:#x}; the 64-bit boot protocol here maps memory below "
            f"{layout.IDENTITY_MAP_END:#x} only"
        )
    return "linux64", elf.entry
