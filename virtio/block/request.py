"""One block request: its header, its data, its status byte. VIRTIO 1.4 "Block Device Operation"."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
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

Move = Callable[[Sequence[memoryview], int], None]
"""``readv`` or ``writev`` of a backend: the views, and where on the medium in bytes."""


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


class Request:
    """A request whose header was copied out once: ``struct virtio_blk_req``.

    .. code:: c

        struct virtio_blk_req { le32 type; le32 reserved; le64 sector; u8 data[]; u8 status; };

    ``status`` is a view of its last byte. The data of a large read or write is moved in steps: then
    ``transfer`` is what is still to be moved.
    """

    __slots__ = ("chain", "queue", "sector", "status", "transfer", "type")

    def __init__(
        self, chain: DescriptorChain, status: memoryview, queue: int, kind: int, sector: int
    ) -> None:
        self.chain = chain
        self.status = status
        self.queue = queue
        self.type = kind
        self.sector = sector
        self.transfer: Transfer | None = None

    @property
    def data_out(self) -> Sequence[memoryview]:
        """What the driver sent after the header."""
        views = self.chain.readable
        return views[1:] if len(views[0]) == HEADER.size else split(views, HEADER.size)[1]

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
        self.status[0] = status
        return written + 1 if written == self.chain.writable_length else written


class Transfer:
    """The data of a large request, on its way: ``left`` bytes still to be moved.

    ``move`` is the backend's method, ``views`` the memory, ``sector`` where it goes on there.
    """

    __slots__ = ("_move", "_views", "left", "sector")

    def __init__(self, move: Move, views: Sequence[memoryview], left: int, sector: int) -> None:
        self._move = move
        self._views = views
        self.left = left
        self.sector = sector

    def step(self) -> bool:
        """Move at most ``STEP_BYTES`` (8 MiB) of it; returns whether they were the last."""
        part, self._views = split(self._views, STEP_BYTES)
        self._move(part, self.sector * SECTOR_BYTES)
        self.left -= min(self.left, STEP_BYTES)
        self.sector += STEP_BYTES // SECTOR_BYTES
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
