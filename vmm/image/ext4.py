"""Reads ext4 images, and gives their inodes owner and times, without a program that takes names.

Enough of the format for what mke2fs(8) writes: extents, linear and hashed directories, both sizes
of group descriptors, checksums of inodes. Linux filesystems/ext4/ "Data Structures and Algorithms".
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from typing import Final

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple

ROOT: Final = 2
LOST_AND_FOUND: Final = 11

_MAGIC: Final = 0xEF53
_EXTENT_MAGIC: Final = 0xF30A
_INCOMPAT_64BIT: Final = 0x80
_INCOMPAT_CSUM_SEED: Final = 0x2000
# FILETYPE, EXTENTS, 64BIT, FLEX_BG, CSUM_SEED: what else changes the layout is not read here.
_INCOMPAT_KNOWN: Final = 0x2 | 0x40 | _INCOMPAT_64BIT | 0x200 | _INCOMPAT_CSUM_SEED
_RO_COMPAT_METADATA_CSUM: Final = 0x400
_EXTENTS_FLAG: Final = 0x80000
_FAST_LINK_BYTES: Final = 60
_UNWRITTEN: Final = 0x8000
_CHECKSUM_LOW: Final = 0x7C
_CHECKSUM_HIGH: Final = 0x82
_CHECKSUM_HIGH_END: Final = 4
"""How many bytes behind the first 128 an inode must use to have the upper half of a checksum."""


class Inode(NamedTuple):
    """An inode: type and permissions, links, size in bytes, and its raw bytes."""

    number: int
    mode: int
    links: int
    size: int
    raw: bytes

    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number of a device node, in Linux's old or new encoding."""
        old, new = struct.unpack_from("<II", self.raw, 0x28)
        if old:
            return old >> 8 & 0xFF, old & 0xFF
        return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00


class Ext4:
    """An image in an open file, at ``fd``, which nobody else changes meanwhile.

    Raises :class:`ConfigurationError` for one that is not understood.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        block = os.pread(fd, 1024, 1024)
        if len(block) < 1024 or struct.unpack_from("<H", block, 0x38)[0] != _MAGIC:
            raise ConfigurationError("no ext4 image")
        self.block_bytes: int = 1024 << struct.unpack_from("<I", block, 0x18)[0]
        self._inodes_per_group: int = struct.unpack_from("<I", block, 0x28)[0]
        self._inode_bytes: int = struct.unpack_from("<H", block, 0x58)[0]
        incompat, ro_compat = struct.unpack_from("<II", block, 0x60)
        if incompat & ~_INCOMPAT_KNOWN:
            raise ConfigurationError(f"ext4 image with unknown features {incompat:#x}")
        wide = bool(incompat & _INCOMPAT_64BIT)
        self._descriptor_bytes = struct.unpack_from("<H", block, 0xFE)[0] if wide else 32
        self._first_data_block: int = struct.unpack_from("<I", block, 0x14)[0]
        self._seed: int | None = None
        if ro_compat & _RO_COMPAT_METADATA_CSUM:
            given = struct.unpack_from("<I", block, 0x270)[0]
            from_uuid = not incompat & _INCOMPAT_CSUM_SEED
            self._seed = crc32c(0xFFFFFFFF, block[0x68:0x78]) if from_uuid else given

    def inode(self, number: int) -> Inode:
        """Return an inode by its number."""
        raw = os.pread(self._fd, self._inode_bytes, self._place(number))
        mode, size, links = struct.unpack_from("<H2xI18xH", raw)
        size |= struct.unpack_from("<I", raw, 0x6C)[0] << 32
        return Inode(number, mode, links, size, raw)

    def entries(self, folder: Inode) -> dict[bytes, int]:
        """Return the numbers of the inodes in a folder by their names, without ``.`` and ``..``."""
        found: dict[bytes, int] = {}
        data = self.read(folder)
        for start in range(0, len(data), self.block_bytes):
            at, end = start, start + self.block_bytes
            while at + 8 <= end:
                number, length, name_bytes = struct.unpack_from("<IHB", data, at)
                if length < 8:
                    raise ConfigurationError(f"ext4 folder {folder.number}: an entry without end")
                name = data[at + 8 : at + 8 + name_bytes]
                if number and name_bytes and name not in (b".", b".."):
                    found[name] = number
                at += length
        return found

    def read(self, inode: Inode) -> bytes:
        """Return all that is in a file, folder or symbolic link."""
        if stat.S_ISLNK(inode.mode) and inode.size < _FAST_LINK_BYTES:
            return inode.raw[0x28 : 0x28 + inode.size]
        data = bytearray(inode.size)
        for offset, place, length in self.parts(inode):
            data[offset : offset + length] = self.read_at(place, length)
        return bytes(data)

    def read_at(self, place: int, length: int) -> bytes:
        """Return bytes at a place in the image."""
        return os.pread(self._fd, length, place)

    def parts(self, inode: Inode) -> Iterator[tuple[int, int, int]]:
        """Yield the parts of a file that are no holes: offset, place in the image, length."""
        if not struct.unpack_from("<I", inode.raw, 0x20)[0] & _EXTENTS_FLAG:
            raise ConfigurationError(f"ext4 inode {inode.number}: has no extents")
        size = self.block_bytes
        for first, count, block in self._extents(inode.raw[0x28:0x64]):
            offset = first * size
            yield offset, block * size, min(count * size, inode.size - offset)

    def set_owner_and_times(self, number: int, seconds: int) -> None:
        """Give an inode to root, and make all of its times ``seconds``."""
        raw = bytearray(self.inode(number).raw)
        for offset in (0x02, 0x18, 0x78, 0x7A):  # uid, gid, and the upper halves of both
            struct.pack_into("<H", raw, offset, 0)
        for offset in (0x08, 0x0C, 0x10):  # atime, ctime, mtime
            struct.pack_into("<I", raw, offset, seconds)
        extra = struct.unpack_from("<H", raw, 0x80)[0] if len(raw) > 128 else 0
        for offset, value in (
            *((0x84, 0), (0x88, 0), (0x8C, 0)),  # what the times above have behind the point
            *((0x90, seconds), (0x94, 0)),  # crtime
        ):
            if offset + 4 <= 128 + extra:
                struct.pack_into("<I", raw, offset, value)
        self._write(number, raw, extra)

    def _write(self, number: int, raw: bytearray, extra: int) -> None:
        if self._seed is not None:
            has_high = extra >= _CHECKSUM_HIGH_END
            struct.pack_into("<H", raw, _CHECKSUM_LOW, 0)
            if has_high:
                struct.pack_into("<H", raw, _CHECKSUM_HIGH, 0)
            checksum = crc32c(self._seed, struct.pack("<I", number) + raw[0x64:0x68] + raw)
            struct.pack_into("<H", raw, _CHECKSUM_LOW, checksum & 0xFFFF)
            if has_high:
                struct.pack_into("<H", raw, _CHECKSUM_HIGH, checksum >> 16)
        os.pwrite(self._fd, raw, self._place(number))

    def _place(self, number: int) -> int:
        group, index = divmod(number - 1, self._inodes_per_group)
        at = (self._first_data_block + 1) * self.block_bytes + group * self._descriptor_bytes
        descriptor = os.pread(self._fd, self._descriptor_bytes, at)
        table = struct.unpack_from("<I", descriptor, 0x8)[0]
        if self._descriptor_bytes > 32:
            table |= struct.unpack_from("<I", descriptor, 0x28)[0] << 32
        place: int = table * self.block_bytes + index * self._inode_bytes
        return place

    def _extents(self, node: bytes) -> Iterator[tuple[int, int, int]]:
        magic, count, _, depth = struct.unpack_from("<4H", node)
        if magic != _EXTENT_MAGIC:
            raise ConfigurationError(f"ext4 image: {magic:#x} begins no tree of extents")
        for at in range(12, 12 * (count + 1), 12):
            if depth:
                _, low, high = struct.unpack_from("<IIH", node, at)
                place = (low | high << 32) * self.block_bytes
                yield from self._extents(os.pread(self._fd, self.block_bytes, place))
                continue
            first, length, high, low = struct.unpack_from("<IHHI", node, at)
            if length <= _UNWRITTEN:
                yield first, length, low | high << 32


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE: Final = _crc_table()


def crc32c(value: int, data: bytes) -> int:
    """Go on with a CRC-32C (Castagnoli) over ``data``, as ext4 does: without the last inversion.

    >>> hex(crc32c(0xFFFFFFFF, b"123456789") ^ 0xFFFFFFFF)
    '0xe3069283'
    """
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value
