"""Block requests: what is asked, what is answered. VIRTIO 1.4 "Block Device Operation"."""

from __future__ import annotations

import struct
from typing import Final

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
