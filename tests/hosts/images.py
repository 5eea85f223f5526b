"""The guest images that the hardware host needs: all made outside, where compilers are."""

from __future__ import annotations

from typing import Final

from tests.perf.peers.guest import bench_kernel, has_bench_kernel
from vmm.image.agent import agent_initramfs, agent_program
from vmm.image.debian_kernel import debian_kernel
from vmm.image.disk import demo_disk
from vmm.image.initramfs import default_initramfs
from vmm.image.kernel import default_kernel, recipe_folder
from vmm.image.program import compiled, compiled_freestanding
from vmm.image.progress import Progress, silent

STOCK: Final = ("debian", "debian:6.12")
"""The kernels of Debian's that tests boot, which none of them downloads."""


def stock_kernels(progress: Progress) -> list[str]:
    """Return the entries of the cache with these kernels; fetches what is missing."""
    return [debian_kernel(name, progress).name for name in STOCK]


def own_kernels(progress: Progress, *, every: bool) -> None:
    """Build what is missing of our kernel: the usual one, or both that tests boot."""
    default_kernel(progress, bzimage=every)
    if every:
        default_kernel(progress, cpus=2)


def prepare() -> None:
    """Make what is missing of all that takes no time, the programs among it."""
    default_initramfs()
    agent_program()
    for busybox in (False, True):
        agent_initramfs(busybox=busybox)
    demo_disk()
    compiled(recipe_folder() / "hostile.c")
    if has_bench_kernel():
        bench_kernel(silent)
    for name in ("load.c", "say.c"):
        compiled_freestanding(recipe_folder() / name)
