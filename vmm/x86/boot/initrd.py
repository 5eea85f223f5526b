"""Puts the initial RAM disk as high as possible into the RAM below the 32-bit hole.

High, so that it stays clear of the kernel and of what that allocates at first (Linux x86 boot.rst
"Where the initrd should go").
"""

import os

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.x86 import layout
from vmm.x86.boot.archives import Bytes, Readable, plain_end
from vmm.x86.boot.image_file import BootMemory, low_ram_end, open_image
from vmm.x86.boot.kernel import OWN_PROTOCOLS, LoadedKernel

Initrd = str | os.PathLike[str] | bytes


class LoadedInitrd(NamedTuple):
    """Where the initrd stands, and how many bytes it has."""

    address: int
    size: int


def load_initrd(initrd: Initrd, memory: BootMemory, kernel: LoadedKernel) -> LoadedInitrd:
    """Load a file, or bytes, as initrd; ``kernel`` bounds its place.

    What is compressed in it is unpacked, where the guest has room for that; a kernel other than
    Linux gets it as it is. Raises
    :class:`ConfigurationError` when it cannot be read, is empty or damaged, or does not fit.
    """
    if isinstance(initrd, bytes):
        return _load(Bytes(initrd), memory, kernel)
    with open_image(initrd, "initrd") as image:
        return _load(image, memory, kernel)


def _load(image: Readable, memory: BootMemory, kernel: LoadedKernel) -> LoadedInitrd:
    address = place_initrd(image.size, memory, kernel, image.name)
    if kernel.protocol in OWN_PROTOCOLS or plain_end(image, 0) == image.size:
        image.load(memory, address, 0, image.size)
        return LoadedInitrd(address, image.size)
    from vmm.x86.boot.initramfs import unpacked

    # Linux copies each file out of an initrd before it lets go of that.
    room = (_top(memory, kernel) - kernel.end) // 2
    with unpacked(image, room) as plain:
        if plain is not image:
            address = place_initrd(plain.size, memory, kernel, plain.name)
        plain.load(memory, address, 0, plain.size)
        return LoadedInitrd(address, plain.size)


def _top(memory: BootMemory, kernel: LoadedKernel) -> int:
    return min(low_ram_end(memory), kernel.initrd_addr_max + 1)


def place_initrd(size: int, memory: BootMemory, kernel: LoadedKernel, name: str = "initrd") -> int:
    """Return the page-aligned address for an initrd of ``size`` bytes.

    Raises :class:`ConfigurationError` when it does not fit between kernel and end of low RAM.
    """
    if size == 0:
        raise ConfigurationError(f"{name}: is empty")
    top = _top(memory, kernel)
    address = (top - size) & ~(layout.PAGE_SIZE - 1)
    if address < kernel.end:
        most = min(layout.LOW_RAM_END, kernel.initrd_addr_max + 1) - kernel.end
        advice = "give the machine more RAM"
        if size > most:
            advice = f"this kernel takes {most} at most, whatever the RAM"
        raise ConfigurationError(
            f"{name}: has {size} bytes; between the end of the kernel at {kernel.end:#x} and "
            f"{top:#x} there is room for {max(top - kernel.end, 0)}: {advice}"
        )
    return address
