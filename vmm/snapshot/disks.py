"""The disks of a snapshot: what each held at that moment, and how it is kept in a folder.

A disk that nobody can write is kept by its name: its file must then be the same one when the
machine is restored. Of a volatile disk the blocks that were written are kept beside that. A disk
that the machine goes on writing is copied.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Final

from virtio.errors import ConfigurationError, HostError
from virtio.saved import U64, Length, shown
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.disk.opening import open_disk
from vmm.disk.overlay import BaseDisk, OverlayDisk
from vmm.disk.place import absolute
from vmm.disk.qcow2 import SUFFIX
from vmm.disk.raw import RawDisk
from vmm.host.digest import sha256
from vmm.snapshot.folder import SnapshotFolder

_PATH_CHARACTERS: Final = 4096
_NAME_CHARACTERS: Final = 255
_DIGEST_CHARACTERS: Final = 64


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A file that is not copied: its absolute path, its size in bytes, and what is in it.

    Or an export of an NBD server: its URI, the size of the disk, and nothing of what is in it,
    which only its server knows.
    """

    path: Annotated[str, Length(_PATH_CHARACTERS, 1)]
    size_bytes: U64
    content: Annotated[str, Length(_DIGEST_CHARACTERS)]

    @classmethod
    def of(cls, path: str, disk: BaseDisk) -> FileIdentity:
        """Return what tells an open disk, of this path, from what it is after a change."""
        if not disk.files:
            return cls(absolute(path), disk.size_bytes, "")
        from vmm.image.content import open_file_digest

        content, *others = [open_file_digest(fd) for fd in disk.files]
        for other in others:
            content = sha256(f"{content}{other}".encode()).hexdigest()
        return cls(absolute(path), os.fstat(disk.files[0]).st_size, content)

    def open(self, where: str, config: DiskConfig) -> BaseDisk:
        """Open the disk of this configuration, which is only read.

        Raises :class:`ConfigurationError` when it is not the one it was.
        """
        disk = open_disk(config, read_only=True)
        if FileIdentity.of(self.path, disk) != self:
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
    data: Annotated[str, Length(_NAME_CHARACTERS)]
    own: tuple[tuple[U64, U64], ...]


FrozenDisk = BaseDisk


def freeze(config: DiskConfig, backend: FrozenDisk) -> FrozenDisk:
    """Return what a disk of a machine holds now, for good; the caller closes it.

    Raises :class:`HostError` when the host has no room for a copy.
    """
    try:
        return backend.frozen()
    except OSError as error:
        detail = f"disk {config.path}: no copy of it can be made among the temporary files"
        raise HostError("copy", error.errno or 0, detail) from error


def save_disk(
    origin: FileIdentity | None, disk: FrozenDisk, folder: SnapshotFolder, index: int
) -> SavedDisk:
    """Write a disk that nobody changes now to a new folder, but for its ``origin``."""
    if origin is not None and not isinstance(disk, OverlayDisk):
        return SavedDisk(origin, "", ())
    name = _data_name(index)
    with open(folder.new_file(name), "wb") as file:
        if origin is not None and isinstance(disk, OverlayDisk):
            disk.save_changes(file.fileno())
            return SavedDisk(origin, name, tuple(disk.changed_runs()))
        disk.save(file.fileno())
    return SavedDisk(None, name, ())


def data_names(configs: Sequence[DiskConfig]) -> list[str]:
    """Return the names of the files that the disks of a machine which was booted are saved in."""
    return [
        _data_name(index) for index, one in enumerate(configs) if one.volatile or not one.read_only
    ]


def _data_name(index: int) -> str:
    return f"disk{index}"


def files_of(configs: Sequence[DiskConfig], disks: Sequence[FrozenDisk]) -> dict[str, int]:
    """Return the open files that are not copied, by the names of their images."""
    kept = ((one, _bottom(disk)) for one, disk in zip(configs, disks, strict=True) if is_kept(one))
    return {one.path: disk.files[0] for one, disk in kept if disk.files}


def check_names(files: Mapping[str, os.stat_result]) -> None:
    """Raise :class:`ConfigurationError` when the name of one of them stands for another by now."""
    for path, status in files.items():
        try:
            found = os.path.samestat(os.stat(path), status)
        except OSError:
            found = False
        if not found:
            raise ConfigurationError(
                f"disk {path}: the file was replaced while the machine ran, and cannot be found"
                " again"
            )


def is_kept(config: DiskConfig) -> bool:
    """Whether nobody writes the image of a disk, which then is not copied."""
    return config.volatile or config.read_only


def origins(
    configs: Sequence[DiskConfig], disks: Sequence[FrozenDisk]
) -> tuple[FileIdentity | None, ...]:
    """Return the files that are not copied: those that the machine has open, not their names'."""
    return tuple(
        FileIdentity.of(one.path, _bottom(disk)) if is_kept(one) else None
        for one, disk in zip(configs, disks, strict=True)
    )


def _bottom(disk: BaseDisk) -> BaseDisk:
    while isinstance(disk, OverlayDisk):
        disk = disk.base
    return disk


def check_disks(
    saved: Sequence[SavedDisk],
    configs: Sequence[DiskConfig],
    where: str,
    trusted: Collection[str],
) -> None:
    """Raise :class:`ConfigurationError` for disks that no machine was saved with.

    The folder may say what it likes, so it names no file that the guest then reads: its own files
    have names that we give, and one of the host, which a volatile or read-only disk is left as, is
    opened only when the user has named it (``trusted``), or when it is the demonstration disk.
    """
    if len(saved) != len(configs):
        raise ConfigurationError(f"{where}: damaged: {len(saved)} disks, it has {len(configs)}")
    from vmm.image.disk import is_demo_disk

    for index, (one, config) in enumerate(zip(saved, configs, strict=True)):
        fault = _fault(one, config, index)
        if fault:
            raise ConfigurationError(f"{where}: damaged: disk {index} {fault}")
        path = config.path
        if one.origin is None:
            continue
        if path not in trusted and not is_demo_disk(path):
            name = shown(path, _PATH_CHARACTERS)
            raise ConfigurationError(
                f"{where}: its disk {index} is {name}, a file outside of the folder:"
                " name it to let the guest have it (--trust-disk FILE, trust_disks)"
            )
        if config.backing and absolute(config.backing) not in trusted:
            name = shown(config.backing, _PATH_CHARACTERS)
            raise ConfigurationError(
                f"{where}: its disk {index} may have backing files in {name}, outside of the"
                " folder: name that, too, to let the guest have them (--trust-disk, trust_disks)"
            )
        if config.format == "qcow2" and not path.endswith(SUFFIX):
            raise ConfigurationError(
                f"{where}: its disk {index} would be taken as a qcow2 image, of which its name says"
                f" nothing: it must end in {SUFFIX}"
            )


def _fault(saved: SavedDisk, config: DiskConfig, index: int) -> str:
    origin = saved.origin
    if (origin is not None) != is_kept(config):
        return "has an origin, or none, against its configuration"
    if origin is None:
        own_file = saved.data == _data_name(index) and not saved.own
        return "" if own_file else "has no data of its own"
    path = origin.path
    if path != config.path or "\0" in path or absolute(path) != path:
        return "has another origin than its configuration says"
    if saved.data not in ("", _data_name(index)):
        return f"names {shown(saved.data)}, which is no file of the folder's"
    return "has blocks without data" if saved.own and not saved.data else ""


def load_disk(saved: SavedDisk, config: DiskConfig, folder: SnapshotFolder) -> FrozenDisk:
    """Open a disk that :func:`check_disks` found possible.

    Raises :class:`ConfigurationError` for one whose files are not there, or do not fit.
    """
    with ExitStack() as opened:
        data: RawDisk | None = None
        if saved.data:
            name = f"{folder.path}/{saved.data}"
            data = RawDisk.of_file(folder.open_file(saved.data), name=name)
            opened.enter_context(data)
        disk: FrozenDisk | None = data
        if saved.origin is not None:
            where = f"snapshot {folder.path}"
            base = opened.enter_context(saved.origin.open(where, config))
            disk = base if data is None else _changed(base, data, saved, folder)
        if disk is None:
            raise folder.damaged("damaged: a disk without data")
        opened.pop_all()
    return disk


def _changed(
    base: BaseDisk, data: RawDisk, saved: SavedDisk, folder: SnapshotFolder
) -> OverlayDisk:
    """Return a disk over its origin, which takes both over."""
    if data.size_bytes != base.size_bytes:
        raise folder.damaged(
            f"damaged: {saved.data} has {data.size_bytes} bytes, its disk has {base.size_bytes}"
        )
    overlay = OverlayDisk(base, read_only=True, delta=data.fd, own=saved.own)
    data.detach()
    return overlay


def continue_disks(config: MachineConfig, frozen: tuple[FrozenDisk, ...]) -> list[OverlayDisk]:
    """Return a disk for each one of a snapshot that a machine may write as it likes."""
    return [
        OverlayDisk(disk.share(), read_only=one.read_only, limit_bytes=one.limit)
        for one, disk in zip(config.disks, frozen, strict=True)
    ]
