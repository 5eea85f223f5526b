"""Guest images: the default kernel, initramfs and disk, and the cache that they are kept in.

Nothing is imported that a guest from the cache does not need; a name is loaded when it is used.
"""

from typing import TYPE_CHECKING

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from vmm.image.cache import Entry, entries, remove
    from vmm.image.disk import demo_disk, make_disk
    from vmm.image.initramfs import Initramfs, build_initramfs, default_initramfs
    from vmm.image.kernel import KernelImage, default_kernel
    from vmm.image.options import initramfs_from_options
    from vmm.image.progress import Progress, ProgressLine

__all__ = [
    "Entry",
    "Initramfs",
    "KernelImage",
    "Progress",
    "ProgressLine",
    "build_initramfs",
    "default_initramfs",
    "default_kernel",
    "demo_disk",
    "entries",
    "initramfs_from_options",
    "make_disk",
    "remove",
]

__getattr__ = lazy_names(
    __name__,
    {
        "cache": ("Entry", "entries", "remove"),
        "disk": ("demo_disk", "make_disk"),
        "initramfs": ("Initramfs", "build_initramfs", "default_initramfs"),
        "kernel": ("KernelImage", "default_kernel"),
        "options": ("initramfs_from_options",),
        "progress": ("Progress", "ProgressLine"),
    },
)
