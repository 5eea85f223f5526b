"""Opens an image of the host, as what it is."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from vmm.disk.raw import RawDisk


def open_image(path: str, *, read_only: bool = False, lock: bool = True) -> RawDisk:
    """Open a raw image or a block device; as :meth:`RawDisk.open`."""
    kind = RawDisk
    with suppress(OSError):  # of which open() tells
        if stat.S_ISBLK(os.stat(path).st_mode):
            from vmm.disk.block_device import BlockDevice

            kind = BlockDevice
    return kind.open(path, read_only=read_only, lock=lock)
