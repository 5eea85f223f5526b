"""Block requests: what is asked, what is answered. VIRTIO 1.4 "Block Device Operation"."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from virtio.block.backend import SECTOR_BYTES
from virtio.scatter import cut
from virtio.virtqueue.request import Request

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
"""``struct virtio_blk_req { le32 type; le32 reserved; le64 sector; u8 data[]; u8 status; }``."""
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


def describe(request: Request) -> str:
    """Return what a request is, for a message."""
    kind, _, sector = request.header or (None, None, None)
    return f"type {kind} at sector {sector} in queue {request.queue_index}"


class Transfer:
    """The data of a large read or write, on its way: ``left`` bytes still to be moved.

    ``move`` is the backend's method, ``views`` the memory, ``sector`` where it goes on on the
    medium, ``written`` how many bytes will be written to the guest in the end.
    """

    __slots__ = ("_move", "_views", "left", "request", "sector", "written")

    def __init__(
        self, request: Request, move: Move, views: Sequence[memoryview], sector: int, written: int
    ) -> None:
        self.request = request
        self.left = sum(map(len, views))
        self.sector = sector
        self.written = written
        self._move = move
        self._views = views

    def step(self) -> bool:
        """Move at most ``STEP_BYTES`` (8 MiB) of it; returns whether they were the last."""
        part, self._views = cut(self._views, STEP_BYTES)
        self._move(part, self.sector * SECTOR_BYTES)
        self.left -= min(self.left, STEP_BYTES)
        self.sector += STEP_BYTES // SECTOR_BYTES
        return not self.left
