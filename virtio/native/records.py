"""The records in which native code tells of chains: ``records.c`` writes them, a trace reads them.

Importing it raises ``ImportError`` where the C part was not built.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

from virtio.native._native import ffi, lib
from virtio.virtqueue.watched import HEAD_BYTES, Given, Taken

UNIT_BYTES: Final = 16
TAKEN: Final = int(lib.TAKEN)

_RECORD: Final = Struct("<QIHH")  # at, value, id, kind
_DESCRIPTOR: Final = Struct("<QII")
_RECORDS: Final = 1 << 15
assert _RECORD.size == _DESCRIPTOR.size == UNIT_BYTES == HEAD_BYTES


class Records:
    """A ring of records for one queue; ``units`` is its size, a power of two.

    Native code writes under the work lock of the queue; one thread at a time may read.
    """

    __slots__ = ("pointer",)

    def __init__(self, units: int = 2 * _RECORDS) -> None:
        records = lib.open_records(units)
        if records == ffi.NULL:
            raise MemoryError(f"records of {units} units: must be a power of two that has room")
        self.pointer = ffi.gc(records, lib.close_records, units * UNIT_BYTES)

    def read(self) -> bytes:
        """Return what was recorded since the last call, for :func:`decode`."""
        parts = []
        buffer = ffi.new("uint8_t[]", 1 << 16)
        while count := lib.read_records(self.pointer, buffer, len(buffer)):
            parts.append(bytes(ffi.buffer(buffer, count)))
        return b"".join(parts)

    def take_lost(self) -> int:
        """Return how many records had no room since the last call."""
        return int(lib.take_lost(self.pointer))


def decode(data: bytes) -> Iterator[Taken | Given]:
    """Return what records say: five values of a chain that was taken, three of one given back."""
    place, end = 0, len(data)
    while place < end:
        at, value, number, kind = _RECORD.unpack_from(data, place)
        place += UNIT_BYTES
        if kind != TAKEN:
            yield at, number, value
            continue
        head = data[place : place + (value & 0xFF)]
        place += HEAD_BYTES
        stop = place + UNIT_BYTES * (value >> 8 & 0xFF)
        descriptors = tuple(_DESCRIPTOR.iter_unpack(data[place:stop]))
        place = stop
        yield at, number, value >> 16, head, descriptors
