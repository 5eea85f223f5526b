"""What a folder holds, and whether a disk image that was made from it holds the same.

Nothing is left out in silence: what cannot be read, or put into an image, is an error that names
it; and so is whatever the image does not have, or has otherwise, as the folder changed meanwhile.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from vmm.image.ext4 import LOST_AND_FOUND, ROOT, Ext4, Inode

_PIECE_BYTES: Final = 1 << 20
_LOST_AND_FOUND: Final = b"lost+found"


class FolderContent:
    """The files below ``top`` at any depth, by their paths; ``top`` itself is ``b""``."""

    def __init__(self, top: bytes) -> None:
        self.top = top
        self.files: dict[bytes, os.stat_result] = {}

    def path(self, name: bytes) -> str:
        """Return the path of a file on the host, for messages: in one line, whatever is in it."""
        text = os.fsdecode(os.path.join(self.top, name) if name else self.top)
        return text if text.isprintable() else repr(text)


def readable(folder: Path) -> FolderContent:
    """Return what a folder holds.

    Raises ``ConfigurationError`` that names what is a socket, or cannot be read.
    """
    content = FolderContent(os.fsencode(os.path.abspath(folder)))
    content.files[b""] = os.stat(content.top)
    left = [b""]
    while left:
        above = left.pop()
        for name in _names(content, above):
            inside = os.path.join(above, name)
            status = _checked(content, inside)
            content.files[inside] = status
            if stat.S_ISDIR(status.st_mode):
                left.append(inside)
    return content


def _names(content: FolderContent, folder: bytes) -> list[bytes]:
    try:
        return sorted(os.listdir(os.path.join(content.top, folder)))
    except OSError as error:
        raise ConfigurationError(f"{content.path(folder)}: {error.strerror}") from None


def _checked(content: FolderContent, name: bytes) -> os.stat_result:
    path = os.path.join(content.top, name)
    try:
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode):
            os.close(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        raise ConfigurationError(f"{content.path(name)}: {error.strerror}") from None
    if stat.S_ISSOCK(status.st_mode):
        raise ConfigurationError(f"{content.path(name)}: a socket cannot be put into a disk image")
    if name == _LOST_AND_FOUND and not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(
            f"{content.path(name)}: must be a folder, for every ext4 file system has one"
        )
    return status


def check_content(image: int, content: FolderContent, seconds: int) -> None:
    """Compare an image with what it was made from, and give all of it to root, at one time.

    Raises ``ConfigurationError`` that names the first difference.
    """
    disk = Ext4(image)
    numbers = _numbers(disk)
    for name in numbers:
        if name not in content.files and name != _LOST_AND_FOUND:
            raise _difference(content, name, "is new in it")
    by_inode: dict[tuple[int, int], int] = {}
    for name, status in content.files.items():
        if name not in numbers:
            raise _difference(content, name, "is missing in it")
        number = numbers[name]
        try:
            _compare(disk, disk.inode(number), content, name, status)
        except OSError as error:
            raise _difference(content, name, error.strerror or "cannot be read") from None
        if not stat.S_ISDIR(status.st_mode):
            first = by_inode.setdefault((status.st_dev, status.st_ino), number)
            if first != number:
                raise _difference(content, name, "is no hard link in it")
    for number in sorted({ROOT, LOST_AND_FOUND, *numbers.values()}):
        disk.set_owner_and_times(number, seconds)


def _numbers(disk: Ext4) -> dict[bytes, int]:
    """Return the number of the inode of each path in an image."""
    found, left = {b"": ROOT}, [b""]
    while left:
        above = left.pop()
        for name, number in disk.entries(disk.inode(found[above])).items():
            path = os.path.join(above, name)
            found[path] = number
            if stat.S_ISDIR(disk.inode(number).mode):
                left.append(path)
    return found


def _compare(
    disk: Ext4, inode: Inode, content: FolderContent, name: bytes, status: os.stat_result
) -> None:
    mode, path = status.st_mode, os.path.join(content.top, name)
    of_mkfs = name in (b"", _LOST_AND_FOUND)
    if inode.mode != mode and not of_mkfs:
        raise _difference(content, name, f"has mode {inode.mode:o} in it, not {mode:o}")
    if stat.S_ISLNK(mode):
        same = disk.read(inode) == os.readlink(path)
    elif stat.S_ISREG(mode):
        same = _same_data(disk, inode, path)
    elif stat.S_ISDIR(mode) or stat.S_ISFIFO(mode):
        same = True
    else:
        same = inode.device == (os.major(status.st_rdev), os.minor(status.st_rdev))
    if not same:
        raise _difference(content, name, "has another content in it")


def _same_data(disk: Ext4, inode: Inode, path: bytes) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return os.fstat(fd).st_size == inode.size and _same_parts(disk, inode, fd)
    finally:
        os.close(fd)


def _same_parts(disk: Ext4, inode: Inode, fd: int) -> bool:
    done = 0
    for offset, place, length in disk.parts(inode):
        if not _is_zero(fd, done, offset):
            return False
        done = offset + length
        for at in range(0, length, _PIECE_BYTES):
            count = min(_PIECE_BYTES, length - at)
            if os.pread(fd, count, offset + at) != disk.read_at(place + at, count):
                return False
    return _is_zero(fd, done, inode.size)


def _is_zero(fd: int, start: int, end: int) -> bool:
    for offset in range(start, end, _PIECE_BYTES):
        piece = os.pread(fd, min(_PIECE_BYTES, end - offset), offset)
        if piece.strip(b"\0"):
            return False
    return True


def _difference(content: FolderContent, name: bytes, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{content.path(name)}: {what}: did the folder change while the image was made?"
    )
