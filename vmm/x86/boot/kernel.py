"""Loads a kernel, whatever its file is: ``vmlinux``, bzImage, a 64-bit ELF, a Multiboot kernel.

A bzImage is unpacked on the host and its ELF kernel loaded, so that the guest never runs the
decompressor; its setup header is kept for the zero page. Implements the loader's side of
Linux x86 boot.rst "64-bit Boot Protocol".
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, Literal

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.x86 import layout
from vmm.x86.boot.bzimage import SetupHeader, is_bzimage, read_setup_header
from vmm.x86.boot.elf import ELF_MAGIC, Elf, check_entry, is_elf_32, load_elf, read_elf
from vmm.x86.boot.image_file import BootMemory, ImageFile, open_image
from vmm.x86.limits import BootProtocol

if TYPE_CHECKING:
    from vmm.x86.boot.multiboot import MultibootHeader

Protocol = Literal["pvh", "linux64", "elf64", "multiboot", "multiboot2"]

_MULTIBOOT: Final = ("multiboot", "multiboot2")
OWN_PROTOCOLS: Final = ("elf64", *_MULTIBOOT)
"""Those of kernels other than Linux: they get the user's words alone, and files as they are."""
_LINUX_BANNER: Final = b"Linux version "

BUILT_IMAGES = ("vmlinux", "arch/x86/boot/bzImage", "bzImage")
"""Where a kernel is in its build tree, or in the folder of one that was built."""

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

    ``auto`` enters by PVH where the kernel has a PVH entry note, else as its Multiboot header says,
    else at its 64-bit entry, as Linux where it is that. Raises :class:`ConfigurationError` that
    says why the file cannot be booted.
    """
    with open_image(file, "kernel") as image:
        if is_bzimage(image):
            if protocol in OWN_PROTOCOLS:
                raise ConfigurationError(f"{image.name}: is a bzImage, which {protocol} is not for")
            return _load_bzimage(image, memory, protocol)
        is_elf = image.read(0, 4) == ELF_MAGIC
        if protocol in ("auto", *_MULTIBOOT):
            found = _load_multiboot(image, memory, protocol, is_elf=is_elf)
            if found is not None:
                return found
        if is_elf:
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


def _load_multiboot(
    image: ImageFile, memory: BootMemory, choice: BootProtocol, *, is_elf: bool
) -> LoadedKernel | None:
    """Load a kernel with a Multiboot header; None where another way in is to be taken."""
    elf = None
    if is_elf and choice == "auto" and not is_elf_32(image):
        elf = read_elf(image)
        if elf.pvh_entry is not None:
            return None
    # Where nothing else would do, what is wrong with a header is told; but a disk image may have
    # the kernel of a boot loader in it.
    needed = elf is None and (is_elf or choice != "auto")
    header = _multiboot_header(image, choice, needed=needed)
    if header is None:
        return None
    if header.addresses is not None:
        from vmm.x86.boot.multiboot import multiboot_segments

        elf = multiboot_segments(image, header)
    elif is_elf:
        elf = elf or read_elf(image, any_class=True)
    else:
        raise ConfigurationError(
            f"{image.name}: its Multiboot header has no addresses, and the file is no ELF"
        )
    entry = elf.physical(elf.entry if header.entry is None else header.entry)
    check_entry(image, elf, entry, "entry")
    load_elf(image, elf, memory)
    return LoadedKernel(entry, header.protocol, elf.start, elf.end)


def _multiboot_header(
    image: ImageFile, choice: BootProtocol, *, needed: bool
) -> MultibootHeader | None:
    """Return the header of the version that was chosen, or of the newer one that is there."""
    from vmm.x86.boot.multiboot import find_multiboot
    from vmm.x86.boot.multiboot2 import find_multiboot2

    header = None
    if choice != "multiboot":
        header = find_multiboot2(image, needed=needed)
    if header is None and choice != "multiboot2":
        header = find_multiboot(image, needed=needed)
    if header is None and choice in _MULTIBOOT:
        raise ConfigurationError(f"{image.name}: has no {choice.title()} header")
    return header


def _load_elf(
    image: ImageFile, memory: BootMemory, choice: BootProtocol, header: SetupHeader | None
) -> LoadedKernel:
    elf = read_elf(image)
    by_pvh = choice == "pvh" or (choice == "auto" and elf.pvh_entry is not None)
    entry = _pvh_entry(image, elf) if by_pvh else elf.physical(elf.entry)
    check_entry(image, elf, entry, "PVH entry" if by_pvh else "entry")
    if choice == "linux64":
        _check_mapped(image, elf)
    load_elf(image, elf, memory)
    protocol: Protocol = "pvh"
    if not by_pvh:
        protocol = "elf64" if choice == "elf64" else "linux64"
        if choice == "auto":
            if header is not None or _is_linux(memory, elf):
                _check_mapped(image, elf)
            else:
                protocol = "elf64"
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


def _check_mapped(image: ImageFile, elf: Elf) -> None:
    """Raise unless the page tables that Linux is entered with map all of a kernel."""
    if elf.end > layout.IDENTITY_MAP_END:
        raise ConfigurationError(
            f"{image.name}: ends at {elf.end:#x}; the 64-bit boot protocol here maps memory below "
            f"{layout.IDENTITY_MAP_END:#x} only"
        )


def _pvh_entry(image: ImageFile, elf: Elf) -> int:
    if elf.pvh_entry is None:
        raise ConfigurationError(
            f"{image.name}: has no PVH entry note (CONFIG_PVH); boot it with protocol linux64"
        )
    return elf.pvh_entry


def _is_linux(memory: BootMemory, elf: Elf) -> bool:
    """Whether a loaded kernel is Linux: by the first line of its log."""
    with memory.view(elf.start, elf.end - elf.start) as view:
        return re.search(_LINUX_BANNER, view) is not None
