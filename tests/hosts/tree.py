"""What becomes the content of a disk: files of this host at the paths that they have here."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from vmm.image.debian import find_tool

_ELF: Final = b"\x7fELF"
_LDD_LINE: Final = re.compile(r"^\s+(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)

Wanted = Callable[[Path], bool]


def everything(path: Path) -> bool:
    """Want any path."""
    return True


class Tree:
    """Collects paths of this host; what a link names is added with the link."""

    def __init__(self) -> None:
        self._found: dict[Path, os.stat_result] = {}

    def __contains__(self, path: str) -> bool:
        return Path(path) in self._found

    def add(self, path: Path, wanted: Wanted = everything) -> None:
        """Add a file, a link or a folder with what is wanted in it; sockets and devices are not."""
        path = self._reached(path)
        if path in self._found or not wanted(path):
            return
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            self._found[path] = status
            target = _target(path)
            if target.exists():
                self.add(target, wanted)
        elif stat.S_ISDIR(status.st_mode):
            self._found[path] = status
            for name in sorted(os.listdir(path)):
                self.add(path / name, wanted)
        elif stat.S_ISREG(status.st_mode):
            self._found[path] = status

    def add_libraries(self) -> None:
        """Add the shared libraries with which the programs and modules in here are loaded."""
        regular = [path for path, one in self._found.items() if stat.S_ISREG(one.st_mode)]
        for library in libraries(path for path in regular if _is_elf(path)):
            self.add(library)

    def identity(self) -> Iterator[str]:
        """Return a line for each path; whatever changes it changes the line. inode(7) "ctime"."""
        for path, one in sorted(self._found.items()):
            if stat.S_ISDIR(one.st_mode):
                yield str(path)
            else:
                yield f"{path} {one.st_mode} {one.st_size} {one.st_ino} {one.st_ctime_ns}"

    def size_bytes(self) -> int:
        """Return the room that the content takes on a disk, in blocks of 4 KiB."""
        return sum(4096 + (one.st_size + 4095 & ~4095) for one in self._found.values())

    def write(self, folder: Path) -> None:
        """Copy all of it into ``folder``, which stands for the root."""
        for path, one in sorted(self._found.items()):
            copy = folder / path.relative_to("/")
            if stat.S_ISDIR(one.st_mode):
                copy.mkdir(exist_ok=True)
            elif stat.S_ISLNK(one.st_mode):
                copy.symlink_to(path.readlink())
            else:
                shutil.copy2(
                    path, copy
                )  # a hard link would change the time that identity() looks at

    def _reached(self, path: Path) -> Path:
        """Return the path without links on the way to it, and add the way."""
        here = Path("/")
        for part in path.parts[1:-1]:
            here /= part
            if here not in self._found:
                self._found[here] = here.lstat()
            if here.is_symlink():
                target = self._reached(_target(here))
                self._found.setdefault(target, target.lstat())
                here = target
        return here / path.name


def libraries(programs: Iterable[Path]) -> set[Path]:
    """Return the shared libraries of programs, as ldd(1) lists them."""
    found: set[Path] = set()
    for chunk in _chunks(list(programs), 500):
        command = ["ldd", *map(str, chunk)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        found.update(map(Path, listed(done.stdout)))
    return found


def listed(output: str) -> list[str]:
    """Return the files that ldd(1) names in its output.

    >>> listed("\\tlibc.so.6 => /lib/libc.so.6 (0x7f)\\n\\t/lib64/ld.so (0x7e)\\n\\tvdso (0x7d)\\n")
    ['/lib/libc.so.6', '/lib64/ld.so']
    """
    return _LDD_LINE.findall(output)


def _chunks(items: list[Path], size: int) -> Iterator[list[Path]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _target(link: Path) -> Path:
    return Path(os.path.normpath(link.parent / link.readlink()))


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == _ELF


def make_ext4(folder: Path, image: Path, size_bytes: int) -> None:
    """Write a sparse ext4 image with the content of ``folder`` and its times, all of it root's.

    Python takes what it compiled by the times of its sources, so that they have to stay.
    """
    options = ["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-E", "root_owner=0:0"]
    command = ["mke2fs", *options, "-d", str(folder), str(image), f"{size_bytes >> 10}k"]
    tool = find_tool("mke2fs")
    done = subprocess.run(command, executable=tool, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConfigurationError(f"mke2fs failed for {image}: {last}")
