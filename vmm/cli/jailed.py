"""The jail for a machine of the command line: its limits, and what it needs to be seen before."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.disk.place import is_url
from vmm.disk.qcow2 import found_format, size_of
from vmm.kernel_choice import is_stock
from vmm.sandbox.jail import Jail
from vmm.sandbox.limits import file_bytes, overlay_bytes, parse_limits

if TYPE_CHECKING:
    from vmm.snapshot import Snapshot


@contextmanager
def jail_for(start: MachineConfig | Snapshot, limits: Sequence[str]) -> Iterator[Jail]:
    """Give the jail for a machine that begins with ``start``; say what it lacks, and if it killed.

    Raises ``ConfigurationError`` for limits that cannot be.
    """
    if isinstance(start, MachineConfig):
        config = start
        _look_at_owners(config)
        overlays = [(_size(one), one.limit) for one in config.disks if one.volatile]
    else:
        config = start.config  # of whose disks each writes to memory
        pairs = zip(config.disks, start.disks, strict=True)
        overlays = [(disk.size_bytes, one.limit) for one, disk in pairs if _writes(one)]
    with Jail(parse_limits(limits, config, overlay_bytes(overlays))) as jail:
        if jail.lacks:
            print(f"vmm: {jail.lacks}", file=sys.stderr)
        yield jail
        if jail.has_killed():
            print(
                "vmm: jail: the machine was ended, for it went over the limit of memory:"
                " --jail-limit memory=SIZE sets another",
                file=sys.stderr,
            )


def _size(disk: DiskConfig) -> int:
    """Return the most that a volatile disk takes of memory. Raises ``ConfigurationError``."""
    if is_url(disk.path):
        if disk.limit is None:
            raise ConfigurationError(
                f"disk {disk.path}: volatile in a jail: needs limit=SIZE, as its size is not known"
            )
        return disk.limit
    if (disk.format or found_format(disk.path)) == "qcow2":
        return size_of(disk.path)
    return file_bytes(disk.path)


def _writes(disk: DiskConfig) -> bool:
    return not disk.read_only


def _look_at_owners(config: MachineConfig) -> None:
    """Find what a user boots out of the cache, and have its owners looked at.

    For in the user namespace, where the machine opens files, those of root look like those of any
    other user.
    """
    theirs = config.kernel is not None and not is_stock(config.kernel)
    if os.geteuid() == 0 or (theirs and config.agent == "none"):
        return
    from vmm.boot_source import boot_source
    from vmm.image import cache_place

    boot_source(config)
    cache_place.owners_are_known = True
