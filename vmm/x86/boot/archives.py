"""The plain cpio archives of an initial RAM disk: where they end, and what is compressed begins.

Linux driver-api/early-userspace/buffer-format.rst "initramfs buffer format".
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from virtio.errors import ConfigurationError
from virtio.memory import GuestMemory

_PLAIN: Final = (b"070701", b"070702")
_HEADER: Final = re.compile(rb"07070[12][0-9A-Fa-f]{104}")
_HEADER_BYTES: Final = 110
_TRAILER: Final = b"TRAILER!!!\0"
_ALIGNMENT: Final = 4
_PIECE_BYTES: Final = 1 << 16


class Readable(Protocol):
    """An initrd: a file, or bytes."""

    name: str
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``, fewer where it ends."""

    def load(self, memory: GuestMemory, address: int, offset: int, length: int) -> None:
        """Put the ``length`` bytes at ``offset`` to ``address``."""


class Bytes:
    """An initrd, or another file, that is bytes."""

    def __init__(self, data: bytes, name: str = "initrd") -> None:
        self.name = name
        self.size = len(data)
        self._data = data

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``, fewer where it ends."""
        return self._data[offset : offset + length]

    def load(self, memory: GuestMemory, address: int, offset: int, length: int) -> None:
        """Put the ``length`` bytes at ``offset`` to ``address``."""
        memory.view(address, length)[:] = memoryview(self._data)[offset : offset + length]


def plain_end(image: Readable, start: int) -> int:
    """Return where the plain archives and zeros from ``start`` on end.

    Raises :class:`ConfigurationError` for an archive that is damaged.
    """
    while start < image.size:
        head = image.read(start, len(_PLAIN[0]))
        if head.startswith(b"\0"):
            start = zeros_end(image, start)
        elif head in _PLAIN:
            start = _archive_end(image, start)
        else:
            return start
    return image.size


def zeros_end(image: Readable, start: int) -> int:
    """Return where the zeros that may be at ``start`` end."""
    while piece := image.read(start, _PIECE_BYTES):
        rest = piece.lstrip(b"\0")
        start += len(piece) - len(rest)
        if rest:
            break
    return start


def _archive_end(image: Readable, start: int) -> int:
    """Return where the cpio archive ends that begins at ``start``; raises for a damaged one."""
    while True:
        header = image.read(start, _HEADER_BYTES + len(_TRAILER))
        if not _HEADER.match(header):
            raise ConfigurationError(f"{image.name}: its cpio archive is damaged at byte {start}")
        data_bytes, name_bytes = int(header[54:62], 16), int(header[94:102], 16)
        data = start + _HEADER_BYTES + name_bytes
        start = _aligned(_aligned(data) + data_bytes)
        if header[_HEADER_BYTES:] == _TRAILER and name_bytes == len(_TRAILER):
            return min(start, image.size)
        if start >= image.size:
            raise ConfigurationError(f"{image.name}: truncated: its cpio archive has no end")


def _aligned(offset: int) -> int:
    return offset + -offset % _ALIGNMENT
