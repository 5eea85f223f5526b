"""The ranges of a discard or write-zeroes request: ``struct virtio_blk_discard_write_zeroes``.

VIRTIO 1.4 "Block Device Operation".
"""

import struct
from typing import Final

from virtio.block.request import io_error, unsupported
from virtio.named_tuple import NamedTuple
from virtio.virtqueue.request import Request

SEGMENT: Final = struct.Struct("<QII")
assert SEGMENT.size == 16

VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP: Final = 1


class Range(NamedTuple):
    """One segment: ``le64 sector; le32 num_sectors; le32 flags``, sectors of 512 bytes."""

    sector: int
    sectors: int
    flags: int

    @property
    def unmap(self) -> bool:
        """Whether storage may be given back."""
        return bool(self.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)


class RangeLimits(NamedTuple):
    """What a kind of range request may ask for."""

    segments: int
    sectors: int
    flags: int


def parse_ranges(request: Request, limits: RangeLimits) -> list[Range]:
    """Copy the ranges out once and check each of them, before any is applied (``BLK-29``).

    Raises :class:`Refused`: unsupported for a flag outside the limits (``BLK-27``, ``BLK-28``),
    an I/O error for a wrong length or too much (``BLK-26``). The capacity is the caller's to check.
    """
    length = request.data_out_bytes
    if length == 0 or length % SEGMENT.size or length > limits.segments * SEGMENT.size:
        raise io_error(f"{length} bytes of ranges, 16 each, {limits.segments} at most")
    data = b"".join(request.data_out)
    ranges = [Range(*values) for values in SEGMENT.iter_unpack(data)]
    for one in ranges:
        if one.flags & ~limits.flags:
            raise unsupported(f"flags {one.flags:#x}, {limits.flags:#x} are allowed")
        if one.sectors > limits.sectors:
            raise io_error(f"{one.sectors} sectors, {limits.sectors} at most")
    return ranges
