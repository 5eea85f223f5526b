"""The shared directories of a machine: opened, made devices of, and told to its sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from virtio.fs import Fs
from virtio.log import Logger
from vmm.sandbox.policy import OpenFolder
from vmm.share.config import ShareConfig, tag_of
from vmm.share.directory import HostDirectory
from vmm.share.limits import Limits, limits_for

logger = Logger(__name__)


def open_shares(shares: Sequence[ShareConfig], resources: ExitStack) -> list[HostDirectory]:
    """Open the directories, which are closed with ``resources``."""
    limits = limits_for(len(shares))
    return [_opened(one, limits, resources) for one in shares]


def _opened(share: ShareConfig, limits: Limits, resources: ExitStack) -> HostDirectory:
    directory = HostDirectory(
        share.source,
        writable=share.writable,
        shared_locks=share.locks == "host",
        limits=limits,
    )
    resources.callback(directory.close)
    return directory


def share_device(share: ShareConfig, index: int, directory: HostDirectory) -> Fs:
    """Return the device of a share, by its number."""
    return Fs(directory, tag_of(share, index), cache=share.cache)


def open_folders(directories: Sequence[HostDirectory]) -> tuple[OpenFolder, ...]:
    """Return what a sandbox leaves of the file system for these."""
    return tuple(
        OpenFolder(one.root_fd, not one.read_only, one.limits.descriptors) for one in directories
    )
