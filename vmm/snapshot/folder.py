"""The folder of a snapshot: its files are its own, and it is there as a whole or not at all.

Anybody may have made the folder, and it says by its names what a guest gets to see. So it is opened
once, and each file by its plain name in it, never along a link, and never one that could wait or
act: regular files only. openat(2), O_NOFOLLOW, O_NONBLOCK.

What is in it is the memory of a guest, so nobody but its owner may read it, whatever the umask.
"""

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from virtio.errors import ConfigurationError
from vmm.host.resource import Resource

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600

_UNFINISHED: Final = ".unfinished-"
_UNFINISHED_NAME: Final = re.compile(r"\.unfinished-[0-9a-f]{16}")
_EXISTS: Final = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)


class SnapshotFolder(Resource):
    """An open folder; ``path`` is for messages. A context manager."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises :class:`ConfigurationError` when that cannot be."""
        self.path = path
        self._prepared: dict[str, int] = {}
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no possible name"
            raise ConfigurationError(f"snapshot {path}/state: {reason}") from None

    def open_file(self, name: str) -> int:
        """Open a file of the folder's own for reading; the caller closes it.

        Raises :class:`ConfigurationError` when there is none.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            fd = os.open(_plain(name), flags, dir_fd=self._fd)
        except OSError as error:
            reason = "is a link" if error.errno == errno.ELOOP else error.strerror
            raise self.damaged(str(reason), name) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise self.damaged("no regular file", name)
        return fd

    def prepare(self, names: Iterable[str]) -> None:
        """Make files now that :meth:`new_file` then gives to a process that can make none."""
        for name in names:
            self._prepared[name] = self.new_file(name)

    def new_file(self, name: str) -> int:
        """Make a file that is not there yet, for writing; the caller closes it."""
        if name in self._prepared:
            return self._prepared.pop(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(_plain(name), flags, FILE_MODE, dir_fd=self._fd)
        os.fchmod(fd, FILE_MODE)
        return fd

    def damaged(self, reason: str, name: str = "") -> ConfigurationError:
        """Return the error to raise for a folder, or a file in it, that is not as it should be."""
        return ConfigurationError(f"snapshot {self.path}{name and f'/{name}'}: {reason}")

    def close(self) -> None:
        """Close it; harmless the second time."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        while self._prepared:
            os.close(self._prepared.popitem()[1])

    def __enter__(self) -> Self:
        return self


@contextmanager
def new_folder(path: Path) -> Iterator[SnapshotFolder]:
    """Give a folder to fill, which gets its name when the block ends, or goes away if it fails.

    What killed processes left beside it goes away too. Raises :class:`ConfigurationError` when
    there is something of that name already, or the host refuses to make or write it.
    """
    if os.path.lexists(path):
        raise _exists(path)
    with written(path):
        yield from _new_folder(path)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn a refusal of the host's to write a folder into :class:`ConfigurationError`."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"snapshot {path}: {error.strerror}") from None


def _new_folder(path: Path) -> Iterator[SnapshotFolder]:
    missing = [one for one in path.parents if not one.exists()]
    try:
        _make_parent(path)
        _sweep(path.parent)
        unfinished, held = _unfinished(path.parent)
    except BaseException:
        _remove_empty(missing)
        raise
    try:
        with SnapshotFolder(unfinished) as folder:
            folder.path = path
            yield folder
        os.rename(unfinished, path)
    except BaseException as error:
        _discard(unfinished)
        _remove_empty(missing)
        if isinstance(error, OSError) and error.errno in _EXISTS and os.path.lexists(path):
            raise _exists(path) from None  # since a moment ago
        raise
    finally:
        os.close(held)


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigurationError(f"snapshot {path}: no folder can be in a file") from None


def _unfinished(parent: Path) -> tuple[Path, int]:
    """Make a folder that is locked for as long as this process lives, or closes the file."""
    while True:
        folder = parent / f"{_UNFINISHED}{os.urandom(8).hex()}"
        folder.mkdir(FOLDER_MODE)
        folder.chmod(FOLDER_MODE)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_SH)
        if folder.exists():
            return folder, fd
        os.close(fd)  # a sweeper came before the lock


def _sweep(parent: Path) -> None:
    """Remove the unfinished folders of processes that do not live any more."""
    for name in os.listdir(parent):
        if not _UNFINISHED_NAME.fullmatch(name):
            continue
        with suppress(OSError):  # at work, somebody else's, or no folder
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(parent / name, flags)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_uid == os.geteuid():
                    _discard(parent / name)
            finally:
                os.close(fd)


def _exists(path: Path) -> ConfigurationError:
    return ConfigurationError(f"snapshot {path}: exists; choose a new name")


def _discard(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):  # somebody else's by now
        for one in folders:
            one.rmdir()


def _plain(name: str) -> str:
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise ValueError(f"{name!r}: no name of a file in a folder")
    return name
