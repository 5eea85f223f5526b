"""The block device, the requests it serves, and what it needs of the thing behind it."""

from virtio.block.backend import SECTOR_BYTES, BlockBackend
from virtio.block.device import Block

__all__ = ["SECTOR_BYTES", "Block", "BlockBackend"]
