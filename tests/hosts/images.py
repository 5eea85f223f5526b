"""The guest images that the hardware host needs: all made outside, where compilers are."""

from __future__ import annotations

from vmm.image.agent import agent_initramfs, agent_program
from vmm.image.disk import demo_disk
from vmm.image.initramfs import default_initramfs
from vmm.image.kernel import default_kernel, recipe_folder
from vmm.image.program import compiled, compiled_freestanding
from vmm.image.progress import Progress


def prepare(progress: Progress) -> None:
    """Make what is missing: kernels for one and for several processors, and all programs."""
    for cpus in (1, 2):
        default_kernel(progress, cpus=cpus)
    default_initramfs()
    agent_program()
    for busybox in (False, True):
        agent_initramfs(busybox=busybox)
    demo_disk(progress)
    compiled(recipe_folder() / "hostile.c")
    for name in ("load.c", "say.c"):
        compiled_freestanding(recipe_folder() / name)
