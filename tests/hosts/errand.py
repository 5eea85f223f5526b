"""What the hardware host has to do: the second disk with the checkout, the images and a command.

What the command leaves in the folder that ``$HOST_OUTPUT`` names is read back from the disk, and so
is its exit status.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.hosts.boot import ERRAND
from tests.hosts.tree import make_ext4
from virtio.errors import ConfigurationError
from vmm.image import cache
from vmm.image.cache_place import places
from vmm.image.debian import find_tool

PROJECT: Final = Path(__file__).parents[2]
CACHE: Final = "/root/.cache/pyvmm"
OUTPUT: Final = f"{ERRAND}/output"
_STATUS: Final = "status"
_DISK_BYTES: Final = 8 << 30  # sparse; what the tests write goes there, too
_LEFT_BEHIND: Final = shutil.ignore_patterns(
    *(".git", ".venv", "build", "dist", ".hypothesis", ".mypy_cache", ".ruff_cache"),
    ".pytest_cache",
)
_IMAGES: Final = ("kernel-", "init", "agent-", "disk-", "hostile-", "load-", "bench-", "say-")
"""Which entries of the image cache go along; no snapshots, for those are another host's."""
_KERNEL_NAMES: Final = ".kernel-names"  # what the cache knows the kernels of packages by

_START: Final = """\
export PATH={path}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/busybox
export HOME=/root USER=root LOGNAME=root SHELL=/bin/sh LANG=C.UTF-8 TERM=dumb
export TMPDIR=/tmp HOST_OUTPUT={output} {variables}
B=/bin/busybox
$B dmesg -n 1
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t tmpfs run /run
$B mkdir -p /dev/pts /dev/shm
$B mount -t devpts -o ptmxmode=666 devpts /dev/pts
$B mount -t tmpfs -o mode=1777 shm /dev/shm
$B mount -t cgroup2 cgroup2 /sys/fs/cgroup
$B ln -sf /proc/self/fd /dev/fd
$B --install -s /busybox
$B ifconfig lo up
mkdir -p /mnt/environment
mount --bind {prefix} /mnt/environment
mount --bind {errand}/tmp /tmp
mkdir -p {project} {cache}
mount --bind {errand}/checkout {project}
mkdir -p {prefix} && mount --bind /mnt/environment {prefix}
mount --bind {errand}/cache {cache}
cd {project}
$B setsid timeout -s INT -k 30 {seconds} {command} </dev/null
echo $? >{errand}/{status}
sync
poweroff -f
"""


@dataclass(frozen=True)
class Errand:
    """A command for the hardware host, its environment, and how long it may take.

    ``images`` names entries of the cache that it needs beside the usual ones.
    """

    command: Sequence[str]
    seconds: int
    variables: Mapping[str, str] = field(default_factory=dict)
    images: Sequence[str] = ()

    def write(self, image: Path) -> None:
        """Write the disk; beside it a folder is made for a moment."""
        staged = image.with_name("errand")
        shutil.copytree(PROJECT, staged / "checkout", symlinks=True, ignore=_LEFT_BEHIND)
        (staged / "cache").mkdir()
        for entry in cache.entries():
            if entry.name.startswith(_IMAGES) or entry.name in self.images:
                shutil.copytree(entry.path, staged / "cache" / entry.name, symlinks=True)
        for place in places():
            if (place / _KERNEL_NAMES).is_dir():
                shutil.copytree(place / _KERNEL_NAMES, staged / "cache" / _KERNEL_NAMES)
        (staged / "output").mkdir()
        (staged / "tmp").mkdir()
        (staged / "tmp").chmod(0o1777)
        (staged / "start").write_text(self.script())
        make_ext4(staged, image, _DISK_BYTES)
        shutil.rmtree(staged)

    def script(self) -> str:
        """Return what the host's first process runs once its disks are mounted."""
        paths = {
            "path": Path(sys.prefix, "bin"),
            "prefix": sys.prefix,
            "project": PROJECT,
            "cache": CACHE,
            "errand": ERRAND,
            "output": OUTPUT,
        }
        return _START.format(
            **{name: shlex.quote(str(path)) for name, path in paths.items()},
            variables=shlex.join(f"{name}={value}" for name, value in self.variables.items()),
            seconds=self.seconds,
            command=shlex.join(self.command),
            status=_STATUS,
        )


def read_back(image: Path, output: Path | None) -> int | None:
    """Return the command's exit status, None when it did not end; copy its output to a folder."""
    with_status = image.with_name(_STATUS)
    debugfs(image, f"dump /{_STATUS} {_STATUS}")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        debugfs(image, "rdump /output .")
        shutil.copytree(image.with_name("output"), output, dirs_exist_ok=True)
    text = with_status.read_text() if with_status.exists() else ""
    return int(text) if text.strip().isdigit() else None


def debugfs(image: Path, request: str) -> str:
    """Return what debugfs(8) answers to a request about an image, with files beside it."""
    tool = find_tool("debugfs")
    if tool is None:
        raise ConfigurationError("debugfs is missing: apt-get install e2fsprogs")
    command = [tool, "-R", request, image.name]
    done = subprocess.run(
        command, cwd=image.parent, capture_output=True, text=True, errors="replace"
    )
    return done.stdout
