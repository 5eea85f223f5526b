"""What is in a file, as a digest: the identity of kernels, disks and programs, wherever they lie.

Path, size and time tell no file from another: a link is switched, ``cp -p`` and packages keep
times. So identity is content. A file is read once for as long as its device, inode, size, time of
content and time of status stay the same: the kernel sets the last one at each change, and no
program can set it back (inode(7) "ctime"). The cache folder keeps what was found.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from vmm.host.digest import sha256
from vmm.host.files import extents
from vmm.image import cache
from vmm.image.cache_place import check_owner

_FOLDER: Final = ".content"
_PIECE_BYTES: Final = 1 << 16
_ZEROES: Final = bytes(_PIECE_BYTES)
_WORTH_KEEPING_BYTES: Final = 1 << 16
_OPENSSL_BYTES: Final = 16 << 20  # what pays for the import of hashlib
# Two changes within one tick of the file system's clock have the same time: a file that has just
# changed may do so again unseen. NFS and FAT have ticks of up to 2 s.
_SETTLED_NS: Final = 3_000_000_000

_known: dict[str, str] = {}


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return 64 hexadecimal digits that stand for the content of a file.

    Raises ``ConfigurationError`` when it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return open_file_digest(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise ConfigurationError(f"{os.fspath(path)}: {error.strerror}") from None


def open_file_digest(fd: int) -> str:
    """Return the digest of an open file's content; its holes count as the zeros that they are.

    A block device is read each time: its times say nothing of what is on it.
    """
    before = os.fstat(fd)
    if not stat.S_ISREG(before.st_mode):
        size_bytes = os.lseek(fd, 0, os.SEEK_END)
        return _digest(fd, size_bytes, [(0, size_bytes)])
    key = cache.digest(_stamp(before))
    if found := _known.get(key) or _recall(before, key):
        _known[key] = found
        return found
    found = _digest(fd, before.st_size, extents(fd, before.st_size))
    if _stamp(os.fstat(fd)) == _stamp(before) and _is_settled(before):
        _known[key] = found
        _keep(before, key, found)
    return found


def _stamp(status: os.stat_result) -> str:
    return (
        f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
        f" {status.st_ctime_ns}"
    )


def _is_settled(status: os.stat_result) -> bool:
    changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
    return 0 <= changed_ns < time.time_ns() - _SETTLED_NS


def _digest(fd: int, size_bytes: int, parts: Iterable[tuple[int, int]]) -> str:
    """Digest each piece that is not zero, with its place, so that no hole is read."""
    if size_bytes >= _OPENSSL_BYTES:
        from hashlib import sha256 as new
    else:
        new = sha256
    state = new(b"%d:" % size_bytes)
    done = 0
    for offset, length in parts:
        place, end = max(done, offset - offset % _PIECE_BYTES), offset + length
        while place < end:
            piece = os.pread(fd, _PIECE_BYTES, place)
            if piece != _ZEROES[: len(piece)]:
                state.update(b"%d:" % place)
                state.update(piece)
            place += _PIECE_BYTES
        done = place
    return state.hexdigest()


def _recall(status: os.stat_result, key: str) -> str | None:
    if status.st_size < _WORTH_KEEPING_BYTES:
        return None
    kept = cache.root() / _FOLDER / key
    with suppress(OSError, ConfigurationError, ValueError):
        check_owner(kept.parent)
        check_owner(cache.root())
        text = kept.read_text("ascii")
        if len(text) == 64 and int(text, 16) >= 0:
            return text
    return None


def _keep(status: os.stat_result, key: str, found: str) -> None:
    """Keep a digest for later processes, where the cache can be written."""
    if status.st_size < _WORTH_KEEPING_BYTES:
        return
    folder = cache.root() / _FOLDER
    with suppress(OSError):
        folder.mkdir(0o755, exist_ok=True)
        new = folder / f"{key}~{os.urandom(4).hex()}"
        new.write_text(found, "ascii")
        new.rename(folder / key)


def tree_digest(folder: Path, suffixes: tuple[str, ...]) -> str:
    """Return a digest of the files below a folder with one of the ``suffixes``, and their names."""
    found = sorted(path for path in folder.rglob("*") if path.suffix in suffixes)
    return cache.digest(
        *(part for path in found for part in (str(path.relative_to(folder)), path.read_bytes()))
    )
