"""Makes small ext4 disk images from a folder with mke2fs, among them the default guest's /dev/vda.

mke2fs(8) reads the folder by itself and gets the image as an open file, so no name of the host is
read by any interpreter. What it wrote is then compared with the folder, name by name.

The same folder gives the same bytes: identifiers, owners and times are fixed. mke2fs takes times
and owners of the files from the host, so they are set afterwards.
"""

from __future__ import annotations

import os
from pathlib import Path

from virtio.errors import ConfigurationError
from vmm.image import cache
from vmm.image.debian import ensure, find_tool
from vmm.image.progress import Progress, silent

_NEEDS = {"mke2fs": "e2fsprogs"}
_UUID = "70797669-7274-4000-8000-000000000001"
_HASH_SEED = "70797669-7274-4000-8000-000000000002"
_SIZE_BYTES = 8 << 20
_IMAGE = "disk.img"
_TIME = 1  # a time of 0 counts as "not given"
_LABEL_BYTES = 16
# Of what mke2fs.conf(5) of a host may add, this would change what the image is made of.
_FEATURES = "^has_journal,^inline_data,^encrypt,^casefold,^ea_inode,^bigalloc,extent"
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
    found = cache.lookup(_demo_name())
    return found is not None and path == str(found / _IMAGE)


def make_disk(
    folder: Path, target: Path, size_bytes: int, *, label: str = "", progress: Progress = silent
) -> None:
    """Write an ext4 image of ``size_bytes`` with the content of ``folder`` to ``target``.

    All that the folder holds is in the image: files, folders, links of both kinds, device nodes and
    FIFOs, with their permissions; everything belongs to root. The image has no journal and is
    sparse. ``target`` is replaced when the image is complete.

    Raises ``ConfigurationError`` when ``folder`` is none, holds a socket or what cannot be read, or
    does not fit; when ``target`` cannot be written; and when mke2fs is missing.
    """
    if not os.path.isdir(folder):
        raise ConfigurationError(f"{folder}: not a folder, so no disk image can be made from it")
    if len(os.fsencode(label)) > _LABEL_BYTES or "\0" in label:
        raise ConfigurationError(f"label {label!r}: must have at most {_LABEL_BYTES} bytes")
    target = Path(os.path.abspath(target))
    if target.resolve().is_relative_to(folder.resolve()):
        raise ConfigurationError(f"{target}: lies in {folder}, of which it would be a part")
    from vmm.image.disk_content import check_content, readable

    content = readable(folder)
    ensure(_NEEDS, "making a disk image", progress)
    unfinished = target.parent / f".unfinished-{os.urandom(8).hex()}"
    try:
        fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            os.ftruncate(fd, size_bytes)
            _mke2fs(folder, fd, label, target)
            check_content(fd, content, _TIME)
            os.rename(unfinished, target)
        finally:
            os.close(fd)
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{target}: {error.strerror}") from None


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


def _mke2fs(folder: Path, image: int, label: str, target: Path) -> None:
    import subprocess

    features = f"hash_seed={_HASH_SEED},root_owner=0:0,lazy_itable_init=0"
    options = ["-q", "-F", "-t", "ext4", "-O", _FEATURES, "-U", _UUID, "-E", features, "-L", label]
    # libext2fs takes what follows a "?" in the name of an image for options, so it gets no name.
    command = ["mke2fs", *options, "-d", os.path.abspath(folder), f"/proc/self/fd/{image}"]
    done = subprocess.run(
        command,
        executable=find_tool("mke2fs"),
        env={**os.environ, "E2FSPROGS_FAKE_TIME": str(_TIME), "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        errors="backslashreplace",
        pass_fds=[image],
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise ConfigurationError(f"mke2fs failed for {target}: {lines[-1]}")
