"""The default guest kernel: built once from Debian's linux-source package, then cached."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.image import cache
from vmm.image.cache_place import writable_place
from vmm.image.progress import Progress, silent

_SOURCES = Path("/usr/src")
# Linux' Makefile refuses blanks and colons; GNU make and its shell know the others.
_NOT_FOR_MAKE = re.compile(r"""[\s:#$%&'"();<>?*\[\]\\`|~=!{}^]""")
MAX_CPUS = 64
"""CONFIG_NR_CPUS of the kernel for several processors: further ones it would leave alone."""

_SYMBOLS = "vmlinux.debug"
_RECIPE = "1"  # raise it when the way of building changes and the fragment does not


class KernelImage(NamedTuple):
    """One built kernel: a stripped ELF with a PVH note, and as bzImage if it was built with that.

    ``release`` is what ``uname -r`` says in the guest, ``key`` the name of the cache entry, and
    ``symbols`` the same ELF with its DWARF, of a kernel for debuggers.
    """

    vmlinux: Path
    bzimage: Path | None
    symbols: Path | None
    config: Path
    release: str
    key: str


def default_kernel(
    progress: Progress | None = None,
    *,
    cpus: int = 1,
    pci: bool = False,
    bzimage: bool = False,
    debug: bool = False,
) -> KernelImage:
    """Return the default guest kernel, built if it is not in the cache (minutes, once).

    A machine with one processor and no PCI bus has a kernel of its own, which executes far less.
    Its second form, which no machine of ours needs, is built with ``bzimage``, and one that
    debuggers understand with ``debug``.

    Raises ``ConfigurationError`` when the source package or a tool to build it is missing and
    cannot be installed, or when the build fails.
    """
    if cpus > MAX_CPUS:
        raise ConfigurationError(
            f"{cpus} processors: the default guest's kernel is for 1 to {MAX_CPUS}; for more, name"
            " one with --kernel"
        )
    if found := cached_kernel(cpus=cpus, pci=pci, bzimage=bzimage, debug=debug):
        return found
    _check_path(writable_place() if os.path.isdir(cache.root()) else cache.root())
    tarball = newest_source() or _installed_source(progress or silent)
    recipe = fragments(cpus, pci=pci, debug=debug)
    return _image(_build(tarball, recipe, progress or silent, bzimage=bzimage))


def cached_kernel(
    *, cpus: int = 1, pci: bool = False, bzimage: bool = False, debug: bool = False
) -> KernelImage | None:
    """Return the default guest kernel if it is cached: one of any source without a source."""
    tarball, recipe = newest_source(), fragments(cpus, pci=pci, debug=debug)
    for form in (True,) if bzimage else (True, False):
        prefix = _prefix(recipe, bzimage=form)
        entry = cache.lookup(_entry_name(tarball, prefix)) if tarball else _newest_build(prefix)
        if entry:
            return _image(entry)
    return None


def fragments(cpus: int, *, pci: bool = False, debug: bool = False) -> list[Path]:
    """Return the configuration of the kernel for such a machine; later options replace."""
    names = ["kernel.config"]
    names += ["kernel-smp-pci.config"] * (cpus > 1 or pci)
    names += ["kernel-debug.config"] * debug
    return [recipe_folder() / name for name in names]


def options(recipe: Sequence[Path]) -> bytes:
    """Return what a configuration sets, line by line: what tells one kernel from another."""
    lines = [line for part in recipe for line in part.read_bytes().splitlines()]
    return b"\n".join(line for line in lines if line and not line.startswith(b"#"))


def recipe_folder() -> Path:
    """Return the folder of the kernel configuration and the init script."""
    return Path(__file__).parents[1] / "guest_images"


def newest_source(folder: Path = _SOURCES) -> Path | None:
    """Return the linux-source archive of the highest version in ``folder``, None without one."""
    found = {_version(path.name): path for path in folder.glob("linux-source-*.tar.xz")}
    return found[max(found)] if found else None


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))


def _source_digest(tarball: Path) -> str:
    # Packages carry fixed times, so size and time tell one package version from another
    # without a read of 140 MB.
    status = tarball.stat()
    return cache.digest(tarball.name, str(status.st_size), str(int(status.st_mtime)))


def _entry_name(tarball: Path, prefix: str) -> str:
    return f"{prefix}{_source_digest(tarball)}"


def _prefix(recipe: Sequence[Path], *, bzimage: bool) -> str:
    identity = [_RECIPE] if bzimage else [_RECIPE, "vmlinux"]
    return f"kernel-{cache.digest(*identity, options(recipe))}-"


def _newest_build(prefix: str) -> Path | None:
    built = [entry.path for entry in cache.entries() if entry.name.startswith(prefix)]
    return max(built, key=lambda path: path.stat().st_mtime, default=None)


def _installed_source(progress: Progress) -> Path:
    from vmm.image.debian import install

    install(["linux-source"], "the default guest kernel", progress)
    tarball = newest_source()
    if tarball is None:
        raise ConfigurationError(f"{_SOURCES}: no linux-source-*.tar.xz, package or not")
    return tarball


def _check_path(place: Path) -> None:
    """Raise ``ConfigurationError`` for a cache in which make cannot build a kernel."""
    if found := _NOT_FOR_MAKE.search(str(place)):
        raise ConfigurationError(
            f"cache {place}: no kernel can be built below a path with {found.group()!r}, which make"
            " takes for the end of a name or for its own: set PYVMM_CACHE to another folder"
        )


def _build(tarball: Path, recipe: Sequence[Path], progress: Progress, *, bzimage: bool) -> Path:
    from vmm.image.kernel_build import build

    return cache.obtain(
        _entry_name(tarball, _prefix(recipe, bzimage=bzimage)),
        lambda target: build(tarball, recipe, target, progress, bzimage=bzimage),
        waiting=lambda: progress("another process is building the guest kernel; waiting", ""),
        resumable=True,
    )


def _image(entry: Path) -> KernelImage:
    return KernelImage(
        vmlinux=entry / "vmlinux",
        bzimage=entry / "bzImage" if (entry / "bzImage").exists() else None,
        symbols=entry / _SYMBOLS if (entry / _SYMBOLS).exists() else None,
        config=entry / "config",
        release=(entry / "release").read_text().strip(),
        key=entry.name,
    )
