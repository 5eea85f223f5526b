"""The hardware host's system: one disk with Python, the virtual environment, tools and libraries.

Everything on it comes from this host and lies at the same paths, so that what `make setup`
installed runs there as it is. No distribution is installed, and nothing needs root.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Final

from tests.hosts.tree import Tree, make_ext4
from virtio.errors import ConfigurationError
from vmm.image import cache
from vmm.image.busybox import find_busybox
from vmm.image.debian import ensure, find_tool
from vmm.image.progress import Progress

PREFIX: Final = "hardware-system-"
IMAGE: Final = "system.img"
_RECIPE: Final = "1"  # raise it when the disk gets other content for the same files
_SPARE_BYTES: Final = 256 << 20

# What tests start, where this host has it; BusyBox stands in for the rest.
TOOLS: Final = (
    *("sh", "bash", "env", "cat", "true", "false", "sleep", "stty", "ls", "head", "nproc", "uname"),
    *("setpriv", "timeout", "nohup", "kill", "iasl", "mke2fs", "debugfs", "e2fsck", "tune2fs"),
)
_SETTINGS: Final = ("passwd", "group", "nsswitch.conf", "mke2fs.conf", "ld.so.cache", "localtime")
_NOT_OF_PYTHON: Final = frozenset(
    (
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "tkinter",
        "turtledemo",
    )
)
# The checker, the linter and the installer are large, and no test that runs there needs them.
_NOT_OF_ENVIRONMENT: Final = ("mypy", "ruff", "pip", "ast_serialize", "atheris")
FOLDERS: Final = ("dev", "mnt", "proc", "root", "run", "sys", "tmp", "var/tmp", "busybox")


def system_disk(progress: Progress) -> Path:
    """Return the cached image; made when it is missing, and older ones are removed then."""
    tree = content()
    name = PREFIX + cache.digest(_RECIPE, *tree.identity())
    if found := cache.lookup(name):
        return found / IMAGE
    ensure({"mke2fs": "e2fsprogs"}, "the disk of the hardware host", progress)

    def make(folder: Path) -> None:
        progress("making the disk of the hardware host", "")
        staged = folder / "content"
        staged.mkdir()
        _write(tree, staged)
        make_ext4(staged, folder / IMAGE, tree.size_bytes() + _SPARE_BYTES)
        shutil.rmtree(staged)

    made = cache.obtain(name, make) / IMAGE
    for old in cache.entries():
        if old.name.startswith(PREFIX) and old.name != name:
            cache.remove(old.name)
    return made


def content() -> Tree:
    """Return what the disk holds: the paths of this host.

    Raises ``ConfigurationError`` outside of a virtual environment, as a system has no end.
    """
    if sys.prefix == sys.base_prefix:
        raise ConfigurationError(f"{sys.executable}: of no virtual environment; run make setup")
    tree = Tree()
    tree.add(Path(sys.prefix), _wanted_of_environment)
    tree.add(Path(sys.executable))
    for key in ("stdlib", "platstdlib"):
        folder = Path(sysconfig.get_path(key, vars={"platbase": sys.base_prefix}))
        tree.add(folder, _wanted_of_python)
    for tool in filter(None, map(find_tool, TOOLS)):
        tree.add(Path(tool))
    for name in _SETTINGS:
        if os.path.exists(f"/etc/{name}"):
            tree.add(Path("/etc", name))
    tree.add(find_busybox())
    tree.add_libraries()
    return tree


def _wanted_of_python(path: Path) -> bool:
    return path.name not in _NOT_OF_PYTHON


def _wanted_of_environment(path: Path) -> bool:
    above = path.parent.name
    return above not in ("site-packages", "bin") or not path.name.startswith(_NOT_OF_ENVIRONMENT)


def _write(tree: Tree, staged: Path) -> None:
    tree.write(staged)
    for name in FOLDERS:
        (staged / name).mkdir(parents=True, exist_ok=True)
