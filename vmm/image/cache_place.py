"""Where the cache of guest images is, whose it may be, and who works on an entry of it.

Guests boot what is in here, and run with the rights of their user. So the folder and its entries
belong to the user or to root, and nobody else can write to them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError

_LOCKS: Final = ".locks"
_HOW_TO_MOVE: Final = "set PYVMM_CACHE to a folder that can be written"
_MODE: Final = 0o755
_PRIVATE_MODE: Final = 0o700
_OTHERS_WRITE: Final = 0o022

owners_are_known = False
"""Set where all that is used was checked, by a process that then loses sight of who is root."""


def root() -> Path:
    """Return the cache's folder, which need not exist yet.

    ``$PYVMM_CACHE``, else ``pyvmm`` in ``$XDG_CACHE_HOME``, else ``~/.cache/pyvmm``. A relative
    ``XDG_CACHE_HOME`` is ignored, as the XDG Base Directory Specification wants it.
    """
    if chosen := os.environ.get("PYVMM_CACHE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    return Path(base, "pyvmm")


def private_root() -> Path:
    """Return the folder for what a user adds to a cache that only others, such as root, can fill.

    ``pyvmm-UID`` in ``$TMPDIR``, else in ``/tmp``; it need not exist.
    """
    return Path(os.environ.get("TMPDIR") or "/tmp", f"pyvmm-{os.geteuid()}")


def places() -> list[Path]:
    """Return the folders that are there, in the order in which entries are looked for."""
    chosen, private = root(), private_root()
    found = [chosen] if os.path.isdir(chosen) else []
    if private != chosen and _is_own_folder(private):
        found.append(private)
    return found


def _is_own_folder(path: Path) -> bool:
    """Whether a name in a folder where anybody may make files and links is a folder of ours."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def writable_place() -> Path:
    """Return the folder that new entries go to; makes it.

    Raises :class:`ConfigurationError` when there is none.
    """
    chosen = root()
    try:
        if os.path.isdir(chosen) and not _can_write(chosen):
            return _made_private()
        chosen.mkdir(_MODE, parents=True, exist_ok=True)
        if not _can_write(chosen):
            raise PermissionError(0, os.strerror(errno.EACCES))
        check_owner(chosen)
    except OSError as error:
        raise ConfigurationError(f"cache {chosen}: {error.strerror}; {_HOW_TO_MOVE}") from error
    return chosen


def _made_private() -> Path:
    folder = private_root()
    folder.mkdir(_PRIVATE_MODE, exist_ok=True)
    if not _is_own_folder(folder):
        raise PermissionError(0, f"cannot be written, and {folder} is no folder of yours")
    check_owner(folder)
    return folder


def _can_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def check_owner(path: Path) -> None:
    """Raise ``ConfigurationError`` when others can change what is in a folder of the cache."""
    if owners_are_known:
        return
    status = path.stat()
    if status.st_uid not in _trusted_owners():
        raise ConfigurationError(
            f"cache {path}: belongs to user {status.st_uid}, who could change what guests boot;"
            " set PYVMM_CACHE to a folder of your own"
        )
    if status.st_mode & _OTHERS_WRITE:
        raise ConfigurationError(
            f"cache {path}: others can write to it (mode {status.st_mode & 0o7777:o});"
            f" if none did, chmod -R go-w {path}"
        )


def _trusted_owners() -> tuple[int, ...]:
    return 0, os.geteuid()


def keep_others_out(folder: Path) -> None:
    """Let nobody else write to a folder and what is in it, whatever the umask was."""
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if mode & _OTHERS_WRITE and not path.is_symlink():
            path.chmod(mode & 0o7777 & ~_OTHERS_WRITE)


@contextmanager
def locked(place: Path, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of an entry: the kernel drops it when the process dies, however it dies.

    Calls ``waiting`` when somebody else holds it.
    """
    fd = _open_lock(place, name, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                waiting()
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def is_worked_on(place: Path, name: str) -> bool:
    """Whether a process that lives makes or removes an entry just now."""
    try:
        fd = _open_lock(place, name, os.O_RDONLY)
    except ConfigurationError:  # nobody has begun
        return False
    return is_taken(fd, fcntl.LOCK_SH)


def is_taken(fd: int, lock: int) -> bool:
    """Whether another process keeps us from a lock of flock(2); closes the file."""
    try:
        fcntl.flock(fd, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _open_lock(place: Path, name: str, flags: int) -> int:
    # Lock files stay: unlinking one that another process waits on would let two builders in.
    try:
        if flags & os.O_CREAT:
            (place / _LOCKS).mkdir(_MODE, exist_ok=True)
        return os.open(place / _LOCKS / name, flags | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigurationError(f"cache {place}: {error.strerror}; {_HOW_TO_MOVE}") from error
