"""Writes cpio archives of the "newc" form, which Linux unpacks as its first root file system.

Linux driver-api/early-userspace/buffer-format.rst "initramfs buffer format"; ``cpio(5)``.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple

_TRAILER = "TRAILER!!!"
_LONGEST_NAME = 4095  # PATH_MAX less the zero byte: longer ones the kernel skips in silence
LARGEST_FILE = 0xFFFFFFFF
_ALIGNMENT = 4


class Member(NamedTuple):
    """One member of an archive: a file, folder, symbolic link or device node.

    ``mode`` holds the type and the permissions as ``st_mode`` does; ``data`` is the content of a
    file or the target of a link; ``device`` is the (major, minor) pair of a node.
    """

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def archive(members: Iterable[Member]) -> bytes:
    """Return the archive of ``members`` in the order of their names.

    The same members give the same bytes: no times, no owners, inodes numbered in that order.
    The order also puts each folder before what it holds, as the kernel needs it.
    """
    parts: list[bytes] = []
    for inode, member in enumerate(sorted(members, key=lambda each: each.name), 1):
        parts += _encode(member, inode)
    parts += _encode(Member(_TRAILER, 0), 0)
    return b"".join(parts)


def _encode(member: Member, inode: int) -> list[bytes]:
    name = member.name.encode(errors="surrogateescape") + b"\0"
    _check(member, len(name) - 1)
    links = 2 if stat.S_ISDIR(member.mode) else 1
    major, minor = member.device
    fields = (
        inode, member.mode, 0, 0, links, 0, len(member.data), 0, 0, major, minor, len(name), 0,
    )  # fmt: skip
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return [header, padding(header), member.data, padding(member.data)]


def _check(member: Member, name_bytes: int) -> None:
    if name_bytes > _LONGEST_NAME:
        where = f"initramfs: name {member.name[:40]!r}..."
        raise ConfigurationError(f"{where}: {name_bytes} bytes long, at most {_LONGEST_NAME}")
    if len(member.data) > LARGEST_FILE:
        size = len(member.data)
        raise ConfigurationError(f"initramfs: {member.name}: {size} bytes, at most {LARGEST_FILE}")


def padding(data: bytes) -> bytes:
    """Return the zero bytes that bring ``data`` to a multiple of 4 bytes."""
    return bytes(-len(data) % _ALIGNMENT)
