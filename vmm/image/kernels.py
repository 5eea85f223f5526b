"""Kernels at hand: the running one, a package of Debian's, or what is in a folder.

A folder is a kernel's build tree (or its output folder), or holds an installed kernel as a package
or ``make modules_install INSTALL_MOD_PATH=`` leaves it: ``boot/vmlinuz-RELEASE`` and
``lib/modules/RELEASE``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.drivers import Driver
from vmm.image.kernel_options import option_fault, read_options
from vmm.image.module_tree import ModuleTree, built_modules, installed_modules
from vmm.image.progress import Progress, silent
from vmm.kernel_choice import HOST, Kernel
from vmm.x86 import BUILT_IMAGES, image_release

_MODULES: Final = ("lib/modules", "usr/lib/modules")


class GuestKernel(NamedTuple):
    """A kernel with its modules: its name for messages, its image, what ``uname -r`` will say.

    ``release`` is empty and ``config`` None when they are not at hand.
    """

    name: str
    image: Path
    release: str
    modules: ModuleTree
    config: Path | None

    def fault(self, driver: Driver) -> str:
        """Return why the kernel certainly cannot drive what ``driver`` is for; else nothing."""
        tree = self.modules
        wanted = driver.also
        if driver.module not in tree and tree.builtin is None:
            wanted = (driver.option, *driver.also)
        elif not (driver.module in tree or driver.module in (tree.builtin or ())):
            return (
                f"has no driver {driver.module} for {driver.purpose}:"
                f" neither a module in {tree.folder} nor built in ({driver.option})"
            )
        if not wanted or self.config is None or _is_newer(self.config, self.image):
            return ""
        return option_fault(driver, wanted, read_options(self.config))


def find_kernel(choice: Kernel, progress: Progress = silent) -> GuestKernel:
    """Return the kernel of a name or a folder; a package is fetched when it is not in the cache.

    Raises ``ConfigurationError`` that says what is missing.
    """
    if isinstance(choice, Path):
        return _in_folder(choice, f"kernel {choice}")
    if choice == HOST:
        return _running()
    from vmm.image.debian_kernel import debian_kernel

    return _in_folder(debian_kernel(choice, progress), f"kernel {choice}")


def _is_newer(one: Path, other: Path) -> bool:
    return one.stat().st_mtime > other.stat().st_mtime


def _running(root: Path = Path("/"), release: str = "") -> GuestKernel:
    """Return the kernel that this host runs, as it is installed below ``root``."""
    name, release = "kernel host", release or os.uname().release
    folder = next(
        (path for base in _MODULES if (path := root / base / release).is_dir()),
        root / _MODULES[0] / release,
    )
    # Debian, Ubuntu and SUSE have the first; Fedora, Arch and NixOS the other one.
    images = [root / "boot" / f"vmlinuz-{release}", folder / "vmlinuz"]
    image = next((path for path in images if path.exists()), None)
    if image is None:
        raise ConfigurationError(
            f"{name}: this host runs {release}, and has neither {images[0]} nor {images[1]}"
            " (in a container these are the host's own): --kernel debian fetches one"
        )
    if not os.access(image, os.R_OK):
        raise ConfigurationError(f"{name}: {image} is not yours to read: chmod a+r it as root")
    config = image.with_name(f"config-{release}")
    if not config.exists():
        config = folder / "config"
    return _installed(name, image, release, folder, config)


def _in_folder(folder: Path, name: str) -> GuestKernel:
    images = sorted((folder / "boot").glob("vmlinuz-*"))
    if len(images) == 1:
        release = images[0].name.removeprefix("vmlinuz-")
        modules = next(
            (path for base in _MODULES if (path := folder / base / release).is_dir()),
            folder / _MODULES[0] / release,
        )
        return _installed(
            name, images[0], release, modules, images[0].with_name(f"config-{release}")
        )
    if images:
        names = ", ".join(one.name for one in images)
        raise ConfigurationError(f"{name}: has several kernels: name one of {names} by its path")
    return _built(folder, name)


def _installed(name: str, image: Path, release: str, modules: Path, config: Path) -> GuestKernel:
    if not modules.is_dir():
        raise ConfigurationError(f"{name}: its modules are not at {modules}")
    return GuestKernel(
        name,
        image,
        image_release(image) or release,
        installed_modules(modules),
        config if config.exists() else None,
    )


def _built(folder: Path, name: str) -> GuestKernel:
    """Return the kernel of a build tree: ``vmlinux``, which is what its bzImage is made of."""
    images = [folder / name for name in BUILT_IMAGES]
    image = next((path for path in images if path.exists()), None)
    if image is None:
        raise ConfigurationError(
            f"{name}: is a folder without a kernel: none of {', '.join(BUILT_IMAGES)}, as a build"
            " leaves them, nor boot/vmlinuz-RELEASE with lib/modules/RELEASE"
        )
    config = next((one for one in (folder / ".config", folder / "config") if one.exists()), None)
    return GuestKernel(name, image, _built_release(folder), built_modules(folder), config)


def _built_release(folder: Path) -> str:
    for file in (folder / "include/config/kernel.release", folder / "release"):
        try:
            return file.read_text(errors="replace").strip()
        except OSError:
            continue
    return ""
