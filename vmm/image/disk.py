"""Makes small ext4 disk images from a folder with mke2fs, among them the default guest's /dev/vda.

The same folder gives the same bytes: identifiers, owners and times are fixed. mke2fs takes times
and owners of the files from the host, so debugfs sets them afterwards. mke2fs(8), debugfs(8).
"""

from __future__ import annotations

import os
from pathlib import Path

from virtio.errors import ConfigurationError
from vmm.image import cache
from vmm.image.debian import ensure, find_tool
from vmm.image.progress import Progress, silent

_NEEDS = {"mke2fs": "e2fsprogs", "debugfs": "e2fsprogs"}
_UUID = "70797669-7274-4000-8000-000000000001"
_HASH_SEED = "70797669-7274-4000-8000-000000000002"
_SIZE_BYTES = 8 << 20
_IMAGE = "disk.img"
_TIME = 1  # a time of 0 counts as "not given"
_STEADY = {"uid": "0", "gid": "0"} | dict.fromkeys(
    ("atime", "ctime", "crtime", "mtime"), f"@{_TIME}"
)
_README = """\
This is the demonstration disk: /dev/vda, an ext4 file system of 8 MiB.

What you write here goes to the machine's virtio block device. Unless you gave the machine a disk of
your own it is forgotten when the machine ends.
"""


def demo_disk(progress: Progress | None = None) -> Path:
    """Return the cached demonstration disk: 8 MiB, sparse, ext4, with a README in it.

    All machines share it: give it to a machine read-only, or with its writes discarded. Raises
    ``ConfigurationError`` when mke2fs is missing and cannot be installed.
    """
    name = _demo_name()
    return (cache.lookup(name) or _make_demo(name, progress or silent)) / _IMAGE


def is_demo_disk(path: str) -> bool:
    """Whether a file is the cached demonstration disk, with which every guest may be trusted."""
    return path == str(cache.root() / _demo_name() / _IMAGE)


def make_disk(
    folder: Path, target: Path, size_bytes: int, *, label: str = "", progress: Progress = silent
) -> None:
    """Write an ext4 image of ``size_bytes`` with the content of ``folder`` to ``target``.

    The image has no journal and is sparse. Raises ``ConfigurationError`` when ``folder`` is none or
    does not fit, and when mke2fs is missing.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: not a folder, so no disk image can be made from it")
    ensure(_NEEDS, "making a disk image", progress)
    with target.open("wb") as image:
        image.truncate(size_bytes)
    features = f"hash_seed={_HASH_SEED},root_owner=0:0,lazy_itable_init=0"
    options = ["-q", "-t", "ext4", "-O", "^has_journal", "-U", _UUID, "-E", features, "-L", label]
    _run(["mke2fs", *options, "-d", str(folder), str(target)])
    _run(["debugfs", "-w", "-f", "-", str(target)], _steadying_commands(folder))


def _demo_name() -> str:
    return f"disk-{cache.digest(_README, _UUID, str(_SIZE_BYTES))}"


def _make_demo(name: str, progress: Progress) -> Path:
    def make(entry: Path) -> None:
        content = entry / "content"
        content.mkdir()
        (content / "README").write_text(_README)
        make_disk(content, entry / _IMAGE, _SIZE_BYTES, label="demo", progress=progress)
        (content / "README").unlink()
        content.rmdir()

    return cache.obtain(name, make)


def _steadying_commands(folder: Path) -> str:
    names = ["/", "/lost+found"]
    for above, folders, files in os.walk(folder):
        relative = Path(above).relative_to(folder)
        names += [f"/{relative / name}" for name in sorted(folders + files)]
    lines = [
        f'set_inode_field "{name}" {field} {value}'
        for name in names
        for field, value in _STEADY.items()
    ]
    return "\n".join(lines) + "\n"


def _run(command: list[str], commands: str = "") -> None:
    import subprocess

    program = find_tool(command[0]) or command[0]
    done = subprocess.run(
        [program, *command[1:]],
        input=commands,
        env={**os.environ, "E2FSPROGS_FAKE_TIME": str(_TIME), "LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise ConfigurationError(f"{command[0]} failed for {command[-1]}: {lines[-1]}")
