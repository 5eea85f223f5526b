"""The kernel of the hardware host: a stock one of Debian's for clouds, with its modules.

apt fetches the package as an ordinary user and verifies it; the per-user cache keeps what the host
needs of it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from virtio.errors import ConfigurationError
from vmm.image import cache
from vmm.image.debian import find_tool
from vmm.image.progress import Progress

META_PACKAGE: Final = "linux-image-cloud-amd64"
PREFIX: Final = "hardware-kernel-"
# In the order in which they can be loaded: the disks first, then KVM. ext4 is built in.
MODULES: Final = (
    *("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"),
    *("virtio_blk", "irqbypass", "kvm", "kvm-amd"),
)


class HostKernel(NamedTuple):
    """The kernel as QEMU takes it, and its modules in the order in which they are loaded."""

    vmlinuz: Path
    modules: tuple[Path, ...]


def host_kernel(progress: Progress) -> HostKernel:
    """Return the kernel; fetched when the cache has none, and never replaced by a newer one.

    Raises ``ConfigurationError`` when apt does not find or fetch it.
    """
    kept = [one.path for one in cache.entries() if one.name.startswith(PREFIX)]
    folder = max(kept, key=lambda path: path.stat().st_mtime) if kept else _fetched(progress)
    return HostKernel(folder / "vmlinuz", tuple(folder / f"{name}.ko" for name in MODULES))


def _fetched(progress: Progress) -> Path:
    if not find_tool("apt-get") or not find_tool("dpkg-deb"):
        raise ConfigurationError("the kernel of the hardware host comes from Debian: needs apt")
    package = package_in(output_of(["apt-cache", "depends", META_PACKAGE]))

    def fetch(folder: Path) -> None:
        progress(f"fetching {package}", "")
        output_of(["apt-get", "-q", "download", package], folder)
        (archive,) = folder.glob("*.deb")
        content = folder / "content"
        output_of(["dpkg-deb", "-x", str(archive), str(content)])
        _keep(content, folder)
        shutil.rmtree(content)
        archive.unlink()

    return cache.obtain(PREFIX + cache.digest(package), fetch)


def package_in(depends: str) -> str:
    """Return the package that a kernel's meta package stands for, of what apt-cache tells of it.

    >>> package_in("linux-image-cloud-amd64\\n  Depends: linux-image-6.1.0-9-cloud-amd64\\n")
    'linux-image-6.1.0-9-cloud-amd64'
    """
    found = re.search(r"^\s*Depends: (linux-image-\S+)$", depends, re.MULTILINE)
    if found is None:
        raise ConfigurationError(f"apt knows no {META_PACKAGE}: run apt-get update as root")
    return found[1]


def _keep(content: Path, folder: Path) -> None:
    for kernel in content.glob("boot/vmlinuz-*"):
        kernel.rename(folder / "vmlinuz")
    for name in MODULES:
        found = list(content.glob(f"**/{name}.ko"))
        if not found:
            raise ConfigurationError(f"{META_PACKAGE}: has no module {name}.ko")
        found[0].rename(folder / f"{name}.ko")


def output_of(command: list[str], folder: Path | None = None) -> str:
    """Return what a command prints; raises ``ConfigurationError`` with its last line of errors."""
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConfigurationError(f"{' '.join(command[:3])} failed: {last}")
    return done.stdout
