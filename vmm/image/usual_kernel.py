"""The kernel that a guest boots when nobody chose one.

Ours boots fastest, and is what a host needs that emulates guest kernels; but it takes minutes to
build. So where the host runs kernels as they are, and ours is not there yet, it is a stock one: a
package of Debian's where apt has it, else the one that this host runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from virtio.errors import ConfigurationError
from vmm.image.kernel import MAX_CPUS, cached_kernel
from vmm.image.progress import Progress, silent
from vmm.kernel_choice import DEBIAN, HOST
from vmm.x86 import is_emulated_host

if TYPE_CHECKING:
    from vmm.image.kernels import GuestKernel

STOCK: Final = (DEBIAN, HOST)
ADVICE: Final = "`vmm image build` makes a smaller one once, in minutes, that starts faster"


def usual_kernel(progress: Progress = silent, *, cpus: int = 1, pci: bool = False) -> str | None:
    """Return the name of the kernel for a machine with so many processors; None for ours.

    A stock kernel is at hand then.
    """
    if is_emulated_host() or (cpus <= MAX_CPUS and cached_kernel(cpus=cpus, pci=pci)):
        return None
    from vmm.image.kernels import find_kernel

    for name in STOCK:
        try:
            find_kernel(name, progress)
        except ConfigurationError:  # no apt, no network, a container
            continue
        return name
    return None


def describe(kernel: GuestKernel) -> str:
    """Return one line about a stock kernel that nobody chose."""
    return f"{kernel.name} ({kernel.release}) is booted; {ADVICE}"
