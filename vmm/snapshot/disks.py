"""The disks of a snapshot: what each held at that moment, and how it is kept in a folder.

A disk that nobody can write is kept by its name: its file must then be the same one when the
machine is restored. Of a volatile disk the blocks that were written are kept beside that. A disk
that the machine goes on writing is copied.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig, RawDisk
from vmm.disk.overlay import OverlayDisk
from vmm.host.runs import Run


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A file that is not copied: its absolute path, size in bytes and time of change in ns."""

    path: str
    size_bytes: int
    changed_ns: int

    @classmethod
    def of(cls, path: str) -> FileIdentity:
        """Return what tells the file ``path`` from what it is after a change."""
        status = os.stat(path)
        return cls(os.path.abspath(path), status.st_size, status.st_mtime_ns)

    def open(self, where: str) -> RawDisk:
        """Open the file; :class:`ConfigurationError` when it is not the one it was."""
        disk = RawDisk.open(self.path, read_only=True)
        if FileIdentity.of(self.path) != self:
            disk.close()
            raise ConfigurationError(f"{where}: {self.path} was changed since: take it again")
        return disk


@dataclass(frozen=True, slots=True)
class SavedDisk:
    """A disk in a folder.

    ``origin`` is the file below it that was not copied, ``data`` the name of the file in the folder
    with what was; of a disk with both, ``own`` tells which blocks of 4 KiB are in ``data``.
    """

    origin: FileIdentity | None
    data: str
    own: tuple[Run, ...]


FrozenDisk = RawDisk | OverlayDisk


def freeze(config: DiskConfig, backend: FrozenDisk) -> FrozenDisk:
    """Return what a disk of a machine holds now, for good; the caller closes it.

    Raises :class:`ConfigurationError` when the host has no room for a copy.
    """
    try:
        return backend.frozen()
    except OSError as error:
        raise ConfigurationError(f"disk {config.path}: cannot be copied: {error}") from None


def save_disk(config: DiskConfig, disk: FrozenDisk, folder: Path, index: int) -> SavedDisk:
    """Write a frozen disk to a folder."""
    origin = FileIdentity.of(config.path) if config.volatile or config.read_only else None
    if origin is not None and isinstance(disk, RawDisk):
        return SavedDisk(origin, "", ())
    name = f"disk{index}"
    with open(folder / name, "xb") as file:
        if origin is not None and isinstance(disk, OverlayDisk):
            disk.save_changes(file.fileno())
            return SavedDisk(origin, name, tuple(disk.changed_runs()))
        disk.save(file.fileno())
    return SavedDisk(None, name, ())


def load_disk(saved: SavedDisk, folder: Path) -> FrozenDisk:
    """Open a disk that was saved; raises :class:`ConfigurationError` for one that is not there."""
    where = f"snapshot {folder}"
    data = RawDisk.open(str(folder / saved.data), read_only=True) if saved.data else None
    if saved.origin is None:
        if data is None:
            raise ConfigurationError(f"{where}: damaged: a disk without data")
        return data
    base = saved.origin.open(where)
    if data is None:
        return base
    return OverlayDisk(base, read_only=True, delta=data.detach(), own=saved.own)


def continue_disks(config: MachineConfig, frozen: tuple[FrozenDisk, ...]) -> list[OverlayDisk]:
    """Return a disk for each one of a snapshot that a machine may write as it likes."""
    return [
        OverlayDisk(disk.share(), read_only=one.read_only)
        for one, disk in zip(config.disks, frozen, strict=True)
    ]
