"""One block request: its header, its data, its status byte. VIRTIO 1.4 "Block Device Operation"."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from virtio.block.backend import SECTOR_BYTES

if TYPE_CHECKING:
    from virtio.chain import DescriptorChain

VIRTIO_BLK_T_IN: Final = 0
VIRTIO_BLK_T_OUT: Final = 1
VIRTIO_BLK_T_FLUSH: Final = 4
VIRTIO_BLK_T_GET_ID: Final = 8
VIRTIO_BLK_T_DISCARD: Final = 11
VIRTIO_BLK_T_WRITE_ZEROES: Final = 13
VIRTIO_BLK_T_SECURE_ERASE: Final = 14

VIRTIO_BLK_S_OK: Final = 0
VIRTIO_BLK_S_IOERR: Final = 1
VIRTIO_BLK_S_UNSUPP: Final = 2

HEADER: Final = struct.Struct("<IIQ")
assert HEADER.size == 16

STEP_BYTES: Final = 8 << 20


class Refused(Exception):
    """A request is answered with an error status and nothing else (``REQ-ERR``)."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


def io_error(reason: str) -> Refused:
    """The request is wrong, or cannot be done."""
    return Refused(VIRTIO_BLK_S_IOERR, reason)


def unsupported(reason: str) -> Refused:
    """The request is of a kind that this device does not do."""
    return Refused(VIRTIO_BLK_S_UNSUPP, reason)


@dataclass(slots=True)
class Request:
    """A request whose header was copied out once: ``struct virtio_blk_req``.

    .. code:: c

        struct virtio_blk_req { le32 type; le32 reserved; le64 sector; u8 data[]; u8 status; };
    """

    chain: DescriptorChain
    status: memoryview
    queue: int
    type: int
    sector: int

    @classmethod
    def parse(cls, chain: DescriptorChain, queue: int) -> Request | int:
        """Return the request, or the used length of a chain that is none (``BLK-04``)."""
        header = chain.read(HEADER.size)
        status = chain.split_status()
        if status is None:
            return 0
        if len(header) < HEADER.size:
            request = cls(chain, status, queue, type=0, sector=0)
            return request.finish(VIRTIO_BLK_S_IOERR, 0)
        kind, _, sector = HEADER.unpack(header)
        return cls(chain, status, queue, kind, sector)

    @property
    def offset(self) -> int:
        """Where it begins on the medium, in bytes; may lie far outside."""
        return self.sector * SECTOR_BYTES

    @property
    def data_out(self) -> Sequence[memoryview]:
        """What the driver sent after the header."""
        return split(self.chain.readable, HEADER.size)[1]

    @property
    def data_out_bytes(self) -> int:
        """How many bytes that is."""
        return self.chain.readable_length - HEADER.size

    @property
    def data_in_bytes(self) -> int:
        """How many bytes the driver has room for, the status not counted."""
        return self.chain.writable_length

    def __str__(self) -> str:
        return f"type {self.type} at sector {self.sector} in queue {self.queue}"

    def finish(self, status: int, written: int) -> int:
        """Store the status; returns the used length: what is written from the first byte on.

        The status, being the last byte, counts only when the data before it is full (``SPL-34``).
        """
        full = written == self.data_in_bytes
        self.status[0] = status
        return written + 1 if full else written


@dataclass(slots=True)
class Transfer:
    """The data of a read or write, moved in steps of at most ``STEP_BYTES`` (8 MiB).

    ``views`` and ``left`` (bytes) are what is still to be moved, to or from ``offset`` (bytes).
    """

    request: Request
    views: Sequence[memoryview]
    left: int
    offset: int
    move: Callable[[Sequence[memoryview], int], None]

    def step(self) -> bool:
        """Move the next part; returns whether it was the last."""
        if 0 < self.left <= STEP_BYTES:  # nearly all requests
            self.move(self.views, self.offset)
            self.views, self.left = (), 0
            return True
        part, rest = split(self.views, STEP_BYTES)
        length = min(self.left, STEP_BYTES)
        if length:
            self.move(part, self.offset)
        self.views, self.left, self.offset = rest, self.left - length, self.offset + length
        return not self.left


def split(
    views: Sequence[memoryview], length: int
) -> tuple[Sequence[memoryview], Sequence[memoryview]]:
    """Cut a scatter list after ``length`` bytes, without copying."""
    for index, view in enumerate(views):
        if len(view) > length:
            return [*views[:index], view[:length]], [view[length:], *views[index + 1 :]]
        length -= len(view)
    return views, []
