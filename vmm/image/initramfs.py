"""Makes initramfs images, the guest's first root file system: in one call, without other programs.

The archive is not compressed, as the guest would have to unpack it. It holds BusyBox and one link
to it: BusyBox's shell finds all applets by itself, and each further member costs boot time.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from virtio.errors import ConfigurationError
from virtio.log import Logger
from vmm.image import cache, cpio
from vmm.image.busybox import find_busybox
from vmm.image.content import file_digest
from vmm.image.init import default_init

logger = Logger(__name__)

Content = Path | str | bytes
"""A ``Path`` is a file of the host to copy; ``str`` and ``bytes`` are the content itself."""

RUN_SCRIPT = "/etc/vmm/run"
"""A shell script here is what the default ``/init`` runs instead of a shell."""

_RECIPE = "1"  # raise it when the members change
FILE_NAME = "initramfs.cpio"
_FOLDERS = ("dev", "mnt", "proc", "sys", "tmp")
_CONSOLE = (5, 1)
_CAPABILITIES = "security.capability"  # capabilities(7) "File capabilities"


def build_initramfs(
    files: Mapping[str, Content] | None = None,
    *,
    directories: Mapping[str, Path] | None = None,
    init: Content | None = None,
    busybox: bool = True,
) -> bytes:
    """Return an initramfs with ``files`` and ``directories`` at the guest's paths, their keys.

    ``init`` becomes ``/init``, by default the one of this project, which needs ``busybox``. Files
    of the host keep their permissions; given content gets 0644, ``/init`` 0755. Links inside
    ``directories`` stay links. The same input gives the same bytes. Raises ``ConfigurationError``.

    >>> build_initramfs({"/etc/motd": "hello"}, init="#!/bin/sh", busybox=False)[:6]
    b'070701'
    """
    image = Initramfs.with_console(_FOLDERS)
    if busybox:
        image.add_busybox()
    for path, folder_source in (directories or {}).items():
        image.add_tree(path, folder_source)
    for path, content in (files or {}).items():
        image.add_file(path, content)
    if init is not None or "init" not in image:
        image.add_file("/init", default_init() if init is None else init, 0o755)
    return image.to_bytes()


def default_initramfs() -> Path:
    """Return the cached initramfs of the default guest: BusyBox and our init.

    It gives a shell on the console, or runs what follows `` -- `` on the kernel command line and
    ends the machine with its exit status.
    """
    busybox = find_busybox()
    init = default_init().read_bytes()
    identity = f"{_RECIPE} {file_digest(busybox)}"
    return cache.obtain(f"initramfs-{cache.digest(identity, init)}", _write) / FILE_NAME


def _write(folder: Path) -> None:
    (folder / FILE_NAME).write_bytes(build_initramfs())


class Initramfs:
    """Collects members, then gives the archive; a later member replaces one of the same path.

    Paths are the guest's, from its root, with or without a leading slash; folders above them are
    made as needed. ``..`` is refused.
    """

    def __init__(self) -> None:
        self._members: dict[str, cpio.Member] = {}

    @classmethod
    def with_console(cls, folders: Iterable[str]) -> Self:
        """Return an image with the device node of the console, and empty folders."""
        image = cls()
        image.add_node("/dev/console", stat.S_IFCHR | 0o600, *_CONSOLE)
        for folder in folders:
            image.add_folder(folder)
        return image

    def __contains__(self, path: str) -> bool:
        return _inside(path) in self._members

    def add_folder(self, path: str, mode: int = 0o755) -> None:
        """Add a folder, or set the permissions of one that is there."""
        self._add(cpio.Member(_inside(path), stat.S_IFDIR | mode))

    def add_file(self, path: str, content: Content, mode: int | None = None) -> None:
        """Add a file of the host (a ``Path``) or one with the given content."""
        if isinstance(content, Path):
            data, own_mode = _read(content)
        else:
            data, own_mode = content.encode() if isinstance(content, str) else content, 0o644
        permissions = own_mode if mode is None else mode
        self._add(cpio.Member(_inside(path), stat.S_IFREG | permissions, data))

    def add_link(self, path: str, target: str) -> None:
        """Add a symbolic link; ``target`` is stored as it is."""
        data = target.encode(errors="surrogateescape")
        self._add(cpio.Member(_inside(path), stat.S_IFLNK | 0o777, data))

    def add_node(self, path: str, mode: int, major: int = 0, minor: int = 0) -> None:
        """Add a device node or FIFO; ``mode`` is type and permissions as in ``st_mode``."""
        self._add(cpio.Member(_inside(path), mode, device=(major, minor)))

    def add_busybox(self) -> None:
        """Add the host's static BusyBox as ``/bin/busybox``, and as ``/bin/sh``."""
        self.add_file("/bin/busybox", find_busybox(), 0o755)
        self.add_link("/bin/sh", "busybox")

    def add_tree(self, path: str, source: Path) -> None:
        """Add what the host's folder ``source`` holds, at any depth, below the guest's ``path``."""
        if not os.path.isdir(source):
            raise ConfigurationError(f"{source}: not a folder, so it cannot become {path!r}")
        top = _inside(path, root_too=True)
        if top:
            self.add_folder(top, stat.S_IMODE(source.stat().st_mode))
        for folder, names, file_names in os.walk(source, onerror=_refuse):
            for name in sorted(names + file_names):
                found = Path(folder, name)
                self._add_found(os.path.join(top, found.relative_to(source)), found)

    def to_bytes(self) -> bytes:
        """Return the archive."""
        return cpio.archive(self._members.values())

    def _add_found(self, path: str, found: Path) -> None:
        status = found.lstat()
        permissions = stat.S_IMODE(status.st_mode)
        if stat.S_ISLNK(status.st_mode):
            self.add_link(path, os.readlink(found))
        elif stat.S_ISDIR(status.st_mode):
            self.add_folder(path, permissions)
        elif stat.S_ISREG(status.st_mode):
            self.add_file(path, found)
        elif stat.S_ISSOCK(status.st_mode):
            raise ConfigurationError(f"{found}: a socket cannot be put into an initramfs")
        else:
            device = os.major(status.st_rdev), os.minor(status.st_rdev)
            self.add_node(path, status.st_mode, *device)

    def _add(self, member: cpio.Member) -> None:
        parent = os.path.dirname(member.name)
        if parent:
            above = self._members.get(parent)
            if above is None:
                self.add_folder(parent)
            elif not stat.S_ISDIR(above.mode):
                raise ConfigurationError(f"initramfs: /{member.name}: /{parent} is not a folder")
        self._check_replacement(member)
        self._members[member.name] = member

    def _check_replacement(self, member: cpio.Member) -> None:
        below = member.name + "/"
        if stat.S_ISDIR(member.mode) or member.name not in self._members:
            return
        if any(name.startswith(below) for name in self._members):
            raise ConfigurationError(f"initramfs: /{member.name}: is a folder with something in it")


def _refuse(error: OSError) -> None:
    raise ConfigurationError(f"{error.filename}: {error.strerror}") from error


def _read(source: Path) -> tuple[bytes, int]:
    try:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigurationError(f"{source}: not a file, so it cannot be put into an initramfs")
        if status.st_size > cpio.LARGEST_FILE:
            raise ConfigurationError(
                f"{source}: {status.st_size} bytes; a file in an initramfs has at most"
                f" {cpio.LARGEST_FILE}"
            )
        _warn_of_capabilities(source)
        return source.read_bytes(), stat.S_IMODE(status.st_mode)
    except OSError as error:
        raise ConfigurationError(f"{source}: {error.strerror}") from error


def _warn_of_capabilities(source: Path) -> None:
    try:
        os.getxattr(source, _CAPABILITIES)
    except OSError:  # it has none, or lies where no file has
        return
    logger.warning(
        "%s: has file capabilities, which a cpio archive cannot hold: the guest's copy has none"
        " (setcap in the guest, or a disk image, gives them)",
        source,
    )


def _inside(path: str, *, root_too: bool = False) -> str:
    """Return ``path`` as the archive spells it, without a leading slash."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path or not (parts or root_too):
        raise ConfigurationError(f"initramfs: path {path!r}: must name a place below the root")
    return "/".join(parts)
