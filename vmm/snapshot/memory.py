"""The RAM of a snapshot: a file that holds it, sparse, and how a damaged one is found out."""

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from vmm.host.files import copy_data, extents

_PIECE_BYTES: Final = 1 << 20

Extent = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SavedMemory:
    """What a memory file must be: its size, the parts that are no holes, and their checksum.

    ``data`` lists ``(offset, length)`` in bytes; ``crc32`` is over all of them in turn.
    """

    size_bytes: int
    data: tuple[Extent, ...]
    crc32: int


def save_memory(memory: int, size_bytes: int, path: Path) -> SavedMemory:
    """Write guest RAM, an open file, to ``path``, which must be new."""
    data = tuple(extents(memory, size_bytes))
    with open(path, "xb") as file:
        copy_data(memory, file.fileno(), size_bytes)
    return SavedMemory(size_bytes, data, _checksum(memory, data))


def open_memory(saved: SavedMemory, path: Path) -> int:
    """Open a memory file for reading, checked; the caller closes it.

    Raises :class:`ConfigurationError` when it is missing, of another size, or damaged.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"snapshot {path}: {error.strerror}") from None
    try:
        size = os.fstat(fd).st_size
        if size != saved.size_bytes:
            raise ConfigurationError(
                f"snapshot {path}: damaged: {size} bytes, {saved.size_bytes} are expected"
            )
        if _checksum(fd, saved.data) != saved.crc32:
            raise ConfigurationError(f"snapshot {path}: damaged: its checksum is wrong")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _checksum(fd: int, data: tuple[Extent, ...], crc: Callable[..., int] = zlib.crc32) -> int:
    value, buffer = 0, memoryview(bytearray(_PIECE_BYTES))
    for offset, length in data:
        end = offset + length
        while offset < end:
            count = os.preadv(fd, [buffer[: end - offset]], offset)
            if not count:
                break
            value = crc(buffer[:count], value)
            offset += count
    return value
