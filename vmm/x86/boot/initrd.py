"""Puts the initial RAM disk as high as possible into the RAM below the 32-bit hole.

High, so that it stays clear of the kernel and of what that allocates at first (Linux x86 boot.rst
"Where the initrd should go").
"""

import os

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.x86 import layout
from vmm.x86.boot.image_file import BootMemory, low_ram_end, open_image
from vmm.x86.boot.kernel import LoadedKernel

Initrd = str | os.PathLike[str] | bytes


class LoadedInitrd(NamedTuple):
    """Where the initrd stands, and how many bytes it has."""

    address: int
    size: int


def load_initrd(initrd: Initrd, memory: BootMemory, kernel: LoadedKernel) -> LoadedInitrd:
    """Load a file, or bytes, as initrd; ``kernel`` bounds its place.

    Raises :class:`ConfigurationError` when it cannot be read, is empty, or does not fit.
    """
    if isinstance(initrd, bytes):
        address = place_initrd(len(initrd), memory, kernel)
        memory.view(address, len(initrd))[:] = initrd
        return LoadedInitrd(address, len(initrd))
    with open_image(initrd, "initrd") as image:
        address = place_initrd(image.size, memory, kernel, image.name)
        image.load(memory, address, 0, image.size)
        return LoadedInitrd(address, image.size)


def place_initrd(size: int, memory: BootMemory, kernel: LoadedKernel, name: str = "initrd") -> int:
    """Return the page-aligned address for an initrd of ``size`` bytes.

    Raises :class:`ConfigurationError` when it does not fit between kernel and end of low RAM.
    """
    if size == 0:
        raise ConfigurationError(f"{name}: is empty")
    top = min(low_ram_end(memory), kernel.initrd_addr_max + 1)
    address = (top - size) & ~(layout.PAGE_SIZE - 1)
    if address < kernel.end:
        raise ConfigurationError(
            f"{name}: has {size} bytes; between the end of the kernel at {kernel.end:#x} and "
            f"{top:#x} there is room for {max(top - kernel.end, 0)}: give the machine more RAM"
        )
    return address
