"""Guest images: the default kernel, initramfs and disk, and their cache.

A guest from the cache imports only what it needs: a name is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from vmm.image.cache import Entry as Entry
    from vmm.image.cache import entries as entries
    from vmm.image.cache import remove as remove
    from vmm.image.cache import unfinished as unfinished
    from vmm.image.disk import demo_disk as demo_disk
    from vmm.image.disk import make_disk as make_disk
    from vmm.image.initramfs import Initramfs as Initramfs
    from vmm.image.initramfs import build_initramfs as build_initramfs
    from vmm.image.initramfs import default_initramfs as default_initramfs
    from vmm.image.kernel import KernelImage as KernelImage
    from vmm.image.kernel import default_kernel as default_kernel
    from vmm.image.kernels import GuestKernel as GuestKernel
    from vmm.image.kernels import find_kernel as find_kernel
    from vmm.image.options import initramfs_from_options as initramfs_from_options
    from vmm.image.progress import Progress as Progress
    from vmm.image.progress import ProgressLine as ProgressLine
else:
    __getattr__, __all__ = lazy_names(
        __name__,
        {
            "cache": "Entry entries remove unfinished",
            "disk": "demo_disk make_disk",
            "initramfs": "Initramfs build_initramfs default_initramfs",
            "kernel": "KernelImage default_kernel",
            "kernels": "GuestKernel find_kernel",
            "options": "initramfs_from_options",
            "progress": "Progress ProgressLine",
        },
    )
