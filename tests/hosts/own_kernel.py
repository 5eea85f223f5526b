"""Our kernel with ACPI, of any version, built from the source package that apt has of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from vmm.image import cache
from vmm.image.apt import Apt, unpack
from vmm.image.cache_place import writable_place
from vmm.image.kernel import fragments, options
from vmm.image.progress import Progress, silent

OURS: Final = "ours"
PREFIX: Final = "own-kernel-"
_USUAL: Final = "6.1"
_ACPI: Final = Path(__file__).with_name("kernel-acpi.config")


def own_kernel(name: str, transport: str, progress: Progress = silent) -> Path | None:
    """Return the image of ``ours:6.12``, or of ``ours`` by ``mmio-acpi``; None for the default one.

    It has all that any transport and number of processors needs. It is built when the cache has
    none, which takes minutes; raises ``ConfigurationError`` where that cannot be done.
    """
    if name == OURS and transport != "mmio-acpi":
        return None
    version = _USUAL if name == OURS else name.removeprefix(f"{OURS}:")
    if not re.fullmatch(r"\d+\.\d+", version):
        raise ConfigurationError(f"kernel {name!r}: must be {OURS} or {OURS}:VERSION")
    recipe = [*fragments(1, pci=True), _ACPI]
    digest = cache.digest(version, options(recipe))

    def make(folder: Path) -> None:
        from vmm.image.kernel_build import build

        build(_source(version, folder, progress), recipe, folder, progress)
        shutil.rmtree(folder / "package")

    entry = cache.obtain(f"{PREFIX}{version}-{digest}", make, resumable=True)
    return entry / "vmlinux"


def _source(version: str, folder: Path, progress: Progress) -> Path:
    place, package = folder / "package", f"linux-source-{version}"
    archive = place / "usr" / "src" / f"{package}.tar.xz"
    if not archive.exists():
        progress(f"fetching {package}", "")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        apt = Apt(writable_place() / ".apt", f"our kernel of {version}")
        unpack(apt.download(package, place), place, package)
    return archive
