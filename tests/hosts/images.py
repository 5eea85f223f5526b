"""The guest images that the hardware host needs: all made outside, where compilers are."""

from __future__ import annotations

from typing import Final

from vmm.image.agent import agent_initramfs, agent_program
from vmm.image.debian_kernel import debian_kernel
from vmm.image.disk import demo_disk
from vmm.image.initramfs import default_initramfs
from vmm.image.kernel import default_kernel, recipe_folder
from vmm.image.program import compiled, compiled_freestanding
from vmm.image.progress import Progress

STOCK: Final = ("debian", "debian:6.12")
"""The kernels of Debian's that tests boot, which none of them downloads."""


def stock_kernels(progress: Progress) -> list[str]:
    """Return the entries of the cache with these kernels; fetches what is missing."""
    return [debian_kernel(name, progress).name for name in STOCK]


def prepare(progress: Progress) -> None:
    """Make what is missing: kernels for one and for several processors, and all programs."""
    default_kernel(progress, bzimage=True)
    default_kernel(progress, cpus=2)
    default_initramfs()
    agent_program()
    for busybox in (False, True):
        agent_initramfs(busybox=busybox)
    demo_disk(progress)
    compiled(recipe_folder() / "hostile.c")
    for name in ("load.c", "say.c"):
        compiled_freestanding(recipe_folder() / name)
