"""Opens a disk of the host, as what it is: an image, a device, or an export of a server."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from vmm.disk.overlay import BaseDisk
from vmm.disk.place import is_url
from vmm.disk.qcow2 import found_format
from vmm.disk.raw import RawDisk

if TYPE_CHECKING:
    from vmm.disk.disk import DiskConfig


def open_disk(config: DiskConfig, *, read_only: bool) -> BaseDisk:
    """Open what is at the path of a disk. Raises :class:`ConfigurationError`."""
    if is_url(config.path):
        return _open_export(config, read_only=read_only)
    if (config.format or found_format(config.path)) == "qcow2":
        from vmm.disk.qemu_nbd import open_qcow2

        return open_qcow2(config, read_only=read_only)
    return open_image(config.path, read_only=read_only, lock=config.lock)


def open_image(path: str, *, read_only: bool = False, lock: bool = True) -> RawDisk:
    """Open a raw image or a block device; as :meth:`RawDisk.open`."""
    kind = RawDisk
    with suppress(OSError):  # of which open() tells
        if stat.S_ISBLK(os.stat(path).st_mode):
            from vmm.disk.block_device import BlockDevice

            kind = BlockDevice
    return kind.open(path, read_only=read_only, lock=lock)


def _open_export(config: DiskConfig, *, read_only: bool) -> BaseDisk:
    from vmm.disk.nbd.disk import NbdDisk
    from vmm.disk.nbd.place import NbdPlace
    from vmm.disk.nbd.server import NbdServer

    place = NbdPlace.parse(config.path)
    server = NbdServer(place, config.path, on_error=config.on_error, timeout=config.timeout)
    try:
        return NbdDisk(server, read_only=read_only)
    except BaseException:
        server.close()
        raise
