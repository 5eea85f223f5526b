"""The RAM of a snapshot: a file that holds it, sparse, and how a damaged one is found out.

Restored machines map the file, as that is what lets any number of them share its pages. So it must
stay as it is as long as one of them runs: a page that is cut off cannot be read any more, by the
guest (KVM_RUN then fails) or by the monitor (which the host ends by SIGBUS). :func:`cut_off` tells
whether that has happened.
"""

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from virtio.saved import U32, U64, Length
from vmm.host.files import copy_extents, extents, without
from vmm.host.runs import runs
from vmm.host.zeros import crc32_of_zeros
from vmm.snapshot.folder import SnapshotFolder

MEMORY_FILE: Final = "memory"
MAX_EXTENTS: Final = 1 << 16

_PIECE_BYTES: Final = 1 << 20
_PAGE_BYTES: Final = 4096
_ZEROS: Final = bytes(_PAGE_BYTES)
_GAP_BYTES: Final = 4 * _PAGE_BYTES
"""The longest hole whose zeros are read in less time than a further part takes."""

Extent = tuple[U64, U64]


@dataclass(frozen=True, slots=True)
class SavedMemory:
    """What a memory file must be: its size, the parts that are no holes, and their checksum.

    ``data`` lists ``(offset, length)`` in bytes, with small holes in them; ``crc32`` is over all of
    them in turn.
    """

    size_bytes: U64
    data: Annotated[tuple[Extent, ...], Length(MAX_EXTENTS)]
    crc32: U32


def save_memory(
    memory: int, size_bytes: int, folder: SnapshotFolder, unused: Sequence[Extent] = ()
) -> SavedMemory:
    """Write guest RAM, an open file, to the memory file of a new folder.

    Pages of zeros become holes, and so does what is ``unused``: parts of the file, in order.
    """
    written = list(_nonzero(memory, without(extents(memory, size_bytes), unused)))
    data = tuple(_joined(written))
    with open(folder.new_file(MEMORY_FILE), "wb+") as file:
        os.ftruncate(file.fileno(), size_bytes)
        copy_extents(memory, file.fileno(), written)
        return SavedMemory(size_bytes, data, _checksum(file.fileno(), data))


def open_memory(saved: SavedMemory, folder: SnapshotFolder) -> int:
    """Open a memory file for reading, checked; the caller closes it.

    Raises :class:`ConfigurationError` when it is missing, of another size, or damaged.
    """
    end = 0
    for offset, length in saved.data:
        if offset < end or not length or offset + length > saved.size_bytes:
            raise folder.damaged(f"damaged: {length} bytes of memory at {offset} cannot be")
        end = offset + length
    fd = folder.open_file(MEMORY_FILE)
    try:
        size = os.fstat(fd).st_size
        if size != saved.size_bytes:
            raise folder.damaged(
                f"damaged: {size} bytes, {saved.size_bytes} are expected", MEMORY_FILE
            )
        if _checksum(fd, saved.data) != saved.crc32:
            raise folder.damaged("damaged: its checksum is wrong", MEMORY_FILE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def cut_off(memory: int, size_bytes: int) -> str:
    """Return a line about a memory file that became too short while it is used; else nothing."""
    if memory < 0:
        return ""  # the snapshot was closed, which its machines may outlive
    size = os.fstat(memory).st_size
    if size >= size_bytes:
        return ""
    return f"the memory file of the snapshot was cut off: it has {size} bytes of {size_bytes}"


def _nonzero(memory: int, parts: Iterable[Extent]) -> Iterator[Extent]:
    """Yield what of parts of a file is not in pages of zeros."""
    buffer = bytearray(_PIECE_BYTES)
    for first, count in parts:
        for offset in range(first, first + count, _PIECE_BYTES):
            with memoryview(buffer) as whole, whole[: first + count - offset] as piece:
                read = os.preadv(memory, [piece], offset)
            # A copy of a page, which is compared at once, takes less time than a view of one.
            pages = range(0, read, _PAGE_BYTES)
            marks = bytes([buffer[at : min(at + _PAGE_BYTES, read)] != _ZEROS for at in pages])
            for page, length in runs(marks):
                at = page * _PAGE_BYTES
                yield offset + at, min(length * _PAGE_BYTES, read - at)


def _joined(parts: Iterable[Extent]) -> list[Extent]:
    """Return extents, those together that are near each other, so that there are not too many."""
    joined, gap = _closed(parts, _GAP_BYTES), _GAP_BYTES
    while len(joined) > MAX_EXTENTS:
        gap *= 2
        joined = _closed(joined, gap)
    return joined


def _closed(parts: Iterable[Extent], gap: int) -> list[Extent]:
    """Return extents without the gaps between them that are at most so long."""
    closed: list[Extent] = []
    for offset, length in parts:
        if closed and offset - sum(closed[-1]) <= gap:
            first = closed[-1][0]
            closed[-1] = first, offset + length - first
        else:
            closed.append((offset, length))
    return closed


def _checksum(fd: int, data: Iterable[Extent]) -> int:
    """Return the checksum of parts of a file, whose holes nobody waits for: they may be huge."""
    value = 0
    for offset, length in data:
        end = offset + length
        for first, count in extents(fd, end, offset) if length > _PIECE_BYTES else ():
            if first - offset > _PIECE_BYTES:
                value, offset = crc32_of_zeros(first - offset, value), first
            value, offset = _read(fd, offset, first + count, value), first + count
        if end - offset > _PIECE_BYTES:
            value, offset = crc32_of_zeros(end - offset, value), end
        value = _read(fd, offset, end, value)
    return value


def _read(fd: int, offset: int, end: int, value: int) -> int:
    """Go on with a checksum over the bytes of a file from ``offset`` to ``end``."""
    buffer = memoryview(bytearray(min(_PIECE_BYTES, end - offset)))
    while offset < end:
        count = os.preadv(fd, [buffer[: end - offset]], offset)
        if not count:
            break
        value = zlib.crc32(buffer[:count], value)
        offset += count
    return value
