"""The kernel of the hardware host: Debian's stock one for clouds, with the modules it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from vmm.image.kernels import find_kernel
from vmm.image.module_tree import Module
from vmm.image.progress import Progress

NAME: Final = "debian"
_MODULES: Final = ("virtio_pci", "virtio_blk", "kvm_amd")  # ext4 is built in


class HostKernel(NamedTuple):
    """The kernel as QEMU takes it, and its modules in the order in which they are loaded."""

    vmlinuz: Path
    modules: tuple[Module, ...]


def host_kernel(progress: Progress) -> HostKernel:
    """Return the kernel, which apt fetches when the cache has none.

    Raises ``ConfigurationError`` when it cannot be had.
    """
    found = find_kernel(NAME, progress)
    return HostKernel(found.image, tuple(found.modules.load_order(_MODULES)))
