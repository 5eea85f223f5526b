"""The modules of one kernel on this host: where each lies, and in which order they are loaded.

An installed kernel has ``modules.dep``, which depmod(8) makes when it is installed. A package that
was only unpacked, and a kernel's build tree, have ``modules.order``, which the kernel's build makes
(Linux kbuild/modules.rst); the modules themselves then say what they need.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.image.modinfo import ModuleInfo, module_info, plain_name
from vmm.x86 import unpack

MODULE_BYTES_MAX: Final = 64 << 20
_SUFFIXES: Final = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


class Module(NamedTuple):
    """A module as the guest loads it: its name, what it says of itself, and its unpacked file."""

    name: str
    info: ModuleInfo
    data: bytes


class ModuleTree:
    """The modules below ``folder``, by name: ``paths``; ``depends`` is what ``modules.dep`` says.

    ``builtin`` are the names of those that are no files but part of the kernel; None when nothing
    tells.
    """

    def __init__(
        self,
        folder: Path,
        paths: Mapping[str, str],
        depends: Mapping[str, tuple[str, ...]] | None,
        builtin: frozenset[str] | None,
    ) -> None:
        self.folder = folder
        self.builtin = builtin
        self._paths = paths
        self._depends = depends
        self._read: dict[str, Module] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def load_order(self, names: Iterable[str]) -> list[Module]:
        """Return the modules ``names``, each behind those that it needs.

        Raises ``ConfigurationError`` when one of them is missing, damaged, or needs itself.
        """
        found: dict[str, Module] = {}
        for name in names:
            self._add(name, found, ())
        return list(found.values())

    def module(self, name: str) -> Module:
        """Read and unpack one module."""
        if name not in self._read:
            path = _present(self.folder, self._paths[name])
            data = _unpacked(path)
            self._read[name] = Module(name, module_info(data, _shown(path)), data)
        return self._read[name]

    def _add(self, name: str, found: dict[str, Module], above: tuple[str, ...]) -> None:
        if name in found or self._is_builtin(name):
            return
        if name in above:
            circle = " needs ".join((*above[above.index(name) :], name))
            raise ConfigurationError(f"{self.folder}: modules in a circle: {circle}; run depmod")
        if name not in self._paths:
            wanted = f"which {above[-1]} needs, " if above else ""
            raise ConfigurationError(f"{self.folder}: the module {name}, {wanted}is not there")
        module = self.module(name)
        for one in module.info.softly:
            if one in self._paths and one not in above:
                self._add(one, found, (*above, name))
        needs = module.info.depends if self._depends is None else self._depends[name]
        for one in needs:
            self._add(one, found, (*above, name))
        found[name] = module

    def _is_builtin(self, name: str) -> bool:
        return self.builtin is not None and name in self.builtin and name not in self._paths


def installed_modules(folder: Path) -> ModuleTree:
    """Return the modules of ``/lib/modules/RELEASE``, or of such a folder elsewhere.

    Raises ``ConfigurationError`` for a damaged ``modules.dep``.
    """
    builtin = _names(_lines(folder / "modules.builtin"))
    lines = _lines(folder / "modules.dep")
    if lines is None:
        return ModuleTree(folder, _in_order(folder), None, builtin)
    depends = _parse_dep(folder, lines)
    paths = {module_name(path): path for path in depends}
    named = {
        module_name(path): tuple(module_name(one) for one in needs)
        for path, needs in depends.items()
    }
    return ModuleTree(folder, paths, named, builtin)


def built_modules(folder: Path) -> ModuleTree:
    """Return the modules of a kernel's build tree."""
    builtin = _names(_lines(folder / "modules.builtin"))
    return ModuleTree(folder, _in_order(folder), None, builtin)


def module_name(path: str) -> str:
    """Return the name of the module in a file.

    >>> module_name("kernel/drivers/char/hw_random/virtio-rng.ko.xz")
    'virtio_rng'
    """
    return plain_name(os.path.basename(path).partition(".")[0])


def _parse_dep(folder: Path, lines: list[str]) -> dict[str, list[str]]:
    """Read ``path: needed paths``; each of them must be a module that has a line of its own."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        path, colon, needs = line.partition(":")
        if not colon or not _is_module(path):
            raise ConfigurationError(_damaged(folder, number, line, "not MODULE: MODULES"))
        found[path] = needs.split()
    for number, (path, needed) in enumerate(found.items(), 1):
        for one in needed:
            if one not in found:
                raise ConfigurationError(_damaged(folder, number, path, f"needs {one}, of no line"))
    return found


def _damaged(folder: Path, number: int, text: str, fault: str) -> str:
    return (
        f"{folder}/modules.dep:{number}: {text[:80]!r}: {fault}; the file is damaged:"
        f" depmod -a {folder.name} makes it anew"
    )


def _is_module(path: str) -> bool:
    return path.endswith(_SUFFIXES) and ".." not in path.split("/")


def _in_order(folder: Path) -> dict[str, str]:
    """Return the modules that ``modules.order`` lists, or without it all files of modules."""
    lines = _lines(folder / "modules.order")
    if lines is None:
        return _walked(folder)
    found = {}
    for line in lines:
        path = line.strip()
        # Newer kernels' build trees name them after their object files.
        path = f"{path[:-2]}.ko" if path.endswith(".o") else path
        if _is_module(path):
            found[module_name(path)] = path
    return found


def _present(folder: Path, path: str) -> Path:
    """Return the file that a line of a list means, which may be compressed since.

    Older kernels' build trees have ``kernel/`` before each path, as installed ones have.
    """
    for base in (path, path.removeprefix("kernel/")):
        for suffix in _SUFFIXES:
            file = folder / f"{base.removesuffix('.ko')}{suffix}"
            if file.exists():
                return file
    return folder / path


def _walked(folder: Path) -> dict[str, str]:
    found = {}
    for above, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if name not in (".git", "source", "build"))
        for name in sorted(files):
            if name.endswith(_SUFFIXES):
                found[module_name(name)] = os.path.relpath(os.path.join(above, name), folder)
    return found


def _names(lines: list[str] | None) -> frozenset[str] | None:
    return None if lines is None else frozenset(map(module_name, lines))


def _lines(file: Path) -> list[str] | None:
    try:
        return file.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from None


def _unpacked(path: Path) -> bytes:
    where = _shown(path)
    try:
        if os.path.getsize(path) > MODULE_BYTES_MAX:
            raise ConfigurationError(f"{where}: has more than {MODULE_BYTES_MAX} bytes")
        return unpack(path.read_bytes(), where, MODULE_BYTES_MAX)
    except OSError as error:
        raise ConfigurationError(f"{where}: {error.strerror}") from None


def _shown(path: Path) -> str:
    return f"module {path}"
