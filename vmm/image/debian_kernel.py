"""Debian's kernels by name: found and downloaded by apt, unpacked once into the cache.

``debian`` is the kernel of the release whose packages apt knows, ``debian:6.12`` the newest one of
that series. A name keeps the kernel that it was fetched with until it is fetched anew.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.image import cache
from vmm.image.apt import Apt, unpack
from vmm.image.cache_place import check_owner, places, writable_place
from vmm.image.progress import Progress
from vmm.kernel_choice import DEBIAN, DebianName, debian_name

PREFIX: Final = "debian-kernel-"
NAMES_FOLDER: Final = ".kernel-names"
_APT_FOLDER: Final = ".apt"
_RECIPE: Final = "1"  # raise it when what is kept of a package changes
_PACKAGE: Final = re.compile(
    r"linux-image-(?P<abi>\d+\.\d[\w.+~]*?(?:-\d+)?)-(?:(?P<kind>cloud|rt)-)?amd64"
)
_SEARCH: Final = "^linux-image-[0-9].*-amd64$"
_KEPT: Final = ("boot", "lib", "usr/lib/modules")


class Package(NamedTuple):
    """A package with a kernel: its name, the release of its kernel, its flavour."""

    name: str
    release: str
    flavour: str

    @property
    def version(self) -> tuple[int, ...]:
        """The numbers of the release, which say which one is newer."""
        return tuple(int(number) for number in re.findall(r"\d+", self.release))


def debian_kernel(name: str, progress: Progress) -> Path:
    """Return the folder of the kernel that ``name`` means, fetched if it is not in the cache."""
    return known_kernel(name) or fetch(name, progress)


def known_kernel(name: str) -> Path | None:
    """Return the folder of the kernel that ``name`` was fetched for, None without one."""
    for place in places():
        kept = place / NAMES_FOLDER / name
        with suppress(FileNotFoundError):
            check_owner(kept.parent)
            entry = kept.read_text(errors="replace").strip()
            if entry.startswith(PREFIX) and "/" not in entry and (found := cache.lookup(entry)):
                return found
    return None


def known_names() -> dict[str, str]:
    """Return the names that were fetched, each with the cache entry of its kernel."""
    names = {path.name for place in places() for path in (place / NAMES_FOLDER).glob("debian*")}
    found = {name: known_kernel(name) for name in sorted(names) if not name.endswith("~")}
    return {name: entry.name for name, entry in found.items() if entry is not None}


def release_of(entry: str) -> str:
    """Return the release of the kernel in a cache entry.

    >>> release_of("debian-kernel-6.1.0-9-cloud-amd64-0123456789abcdef")
    '6.1.0-9-cloud-amd64'
    """
    return entry.removeprefix(PREFIX).rpartition("-")[0]


def available() -> list[tuple[str, str]]:
    """Return a name for the newest of each series and flavour that apt has, and its release."""
    packages = _packages(_apt("kernels of Debian's"))
    newest: dict[str, Package] = {}
    for one in sorted(packages, key=lambda one: one.version):
        newest[_series(one)] = one
    return [(name, one.release) for name, one in newest.items()]


def _apt(purpose: str) -> Apt:
    return Apt(writable_place() / _APT_FOLDER, purpose)


def _series(package: Package) -> str:
    """Return the name of the newest kernel like this one."""
    major, minor, *_ = package.version
    suffix = "" if package.flavour == "cloud" else f"-{package.flavour}"
    return f"{DEBIAN}:{major}.{minor}{suffix}"


def fetch(name: str, progress: Progress) -> Path:
    """Return the folder of the newest kernel that apt has for ``name``, and let the name mean it.

    Raises ``ConfigurationError`` when there is none, or it cannot be downloaded.
    """
    wanted, purpose = debian_name(name), f"kernel {name}"
    apt = _apt(purpose)
    progress(f"looking for {purpose}", "")
    package = _find(apt, wanted)
    if package is None and apt.renew():
        package = _find(apt, wanted)
    if package is None:
        raise ConfigurationError(f"{purpose}: {_advice(apt, wanted)}")

    def make(folder: Path) -> None:
        _fetch(apt, package, folder, purpose, progress)

    identity = cache.digest(_RECIPE, package.name, apt.version(package.name))
    entry = cache.obtain(
        f"{PREFIX}{package.release}-{identity}",
        make,
        waiting=lambda: progress(f"another process is fetching {package.name}; waiting", ""),
    )
    _remember(name, entry.name)
    return entry


def _find(apt: Apt, wanted: DebianName) -> Package | None:
    if not wanted.version:
        kind = "" if wanted.flavour == "generic" else f"{wanted.flavour}-"
        needed = map(_package, apt.depends(f"linux-image-{kind}amd64"))
        return next(filter(None, needed), None)
    fitting = [one for one in _packages(apt) if _fits(one, wanted)]
    return max(fitting, key=lambda one: one.version, default=None)


def _packages(apt: Apt) -> list[Package]:
    return list(filter(None, map(_package, apt.names(_SEARCH))))


def _package(name: str) -> Package | None:
    """Return the package of that name; None for one that has no kernel, as those of a series."""
    found = _PACKAGE.fullmatch(name)
    if found is None or not re.search(r"-\d+$|\+", found["abi"]):
        return None
    release = name.removeprefix("linux-image-")
    return Package(name, release, found["kind"] or "generic")


def _fits(package: Package, wanted: DebianName) -> bool:
    """Whether a package has the flavour and begins with all parts of the version.

    >>> _fits(Package("", "6.12.9-1-amd64", "generic"), DebianName("6.1", "generic"))
    False
    """
    if package.flavour != wanted.flavour:
        return False
    rest = package.release.removeprefix(wanted.version)
    return rest != package.release and not rest[:1].isalnum()


def _advice(apt: Apt, wanted: DebianName) -> str:
    known = _packages(apt)
    if not known:
        return (
            "apt knows no kernel of Debian's: its sources (/etc/apt/sources.list.d) are of another"
            " system, or name no archive; take --kernel host, a file or a folder"
        )
    there = ", ".join(sorted({_series(one) for one in known}))
    what = f"version {wanted.version}" if wanted.version else "kernel"
    return f"apt knows no {what} of flavour {wanted.flavour}; it knows {there}"


def _fetch(apt: Apt, package: Package, folder: Path, purpose: str, progress: Progress) -> None:
    progress(f"fetching {package.name} (once)", "downloading")
    try:
        file = apt.download(package.name, folder)
    except ConfigurationError:
        # The archive drops old packages: the host's lists may name one that it had.
        if not apt.renew():
            raise
        file = apt.download(package.name, folder)
    progress(f"fetching {package.name} (once)", "unpacking")
    unpack(file, folder / "all", purpose)
    for part in _KEPT:
        if (folder / "all" / part).exists():
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            (folder / "all" / part).rename(folder / part)
    (folder / "package").write_text(f"{file.name}\n")
    file.unlink()
    _remove(folder / "all")


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


def _remember(name: str, entry: str) -> None:
    folder = writable_place() / NAMES_FOLDER
    with suppress(OSError):  # the next start asks apt again
        folder.mkdir(0o755, exist_ok=True)
        new = folder / f"{name}~"
        new.write_text(f"{entry}\n")
        new.rename(folder / name)
