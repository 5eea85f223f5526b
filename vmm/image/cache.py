"""The per-user cache of guest images: each is made once, for all processes.

An entry is a folder that appears under its final name only when it is complete. Its name ends in a
digest of everything that went into it, so an entry is never out of date: other inputs, other name.

Guests boot what is in here, and run with the rights of their user. So the folder and its entries
belong to the user or to root, and nobody else can write to them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.host.digest import sha256

_LOCKS = ".locks"
_UNFINISHED = ".unfinished-"
_HOW_TO_MOVE = "set PYVMM_CACHE to a folder that can be written"
_MODE = 0o755
_OTHERS_WRITE = 0o022


class Entry(NamedTuple):
    """One complete image in the cache: its name, its folder, its size in bytes."""

    name: str
    path: Path
    size_bytes: int


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


def digest(*inputs: str | bytes) -> str:
    """Return 16 hexadecimal digits that stand for ``inputs``, their order and their borders.

    >>> digest("ab", "c") == digest("a", "bc"), digest("ab") == digest(b"ab")
    (False, True)
    """
    state = sha256()
    for item in inputs:
        data = item.encode() if isinstance(item, str) else item
        state.update(b"%d:" % len(data))
        state.update(data)
    return state.hexdigest()[:16]


def lookup(name: str) -> Path | None:
    """Return the folder of the entry ``name`` when it is there; takes no lock.

    Raises ``ConfigurationError`` when somebody else could have put it there.
    """
    path = root() / name
    if not os.path.isdir(path):
        return None
    check_owner(root())
    check_owner(path)
    return path


def obtain(
    name: str,
    make: Callable[[Path], None],
    *,
    waiting: Callable[[], None] | None = None,
    resumable: bool = False,
) -> Path:
    """Return the folder of the entry ``name``; when it is missing, let ``make`` fill it first.

    ``make`` gets an empty folder on the cache's file system. Of several processes that ask at once,
    one makes the entry and the others wait; each that waits calls ``waiting`` once. A ``make`` that
    raises leaves nothing behind; the next process sweeps up after a killed one. With
    ``resumable``, ``make`` gets the folder that an interrupted or killed ``make`` left, and goes on
    from there. Raises ``ConfigurationError`` when the cache cannot be written.
    """
    if found := lookup(name):
        return found
    with _locked(name, waiting):
        if found := lookup(name):
            return found
        return _publish(name, make, resumable)


def entries() -> list[Entry]:
    """Return the complete entries, sorted by name."""
    try:
        names = sorted(os.listdir(root()))
    except FileNotFoundError:
        return []
    return [_entry(root() / name) for name in names if not name.startswith(".")]


def remove(name: str) -> bool:
    """Remove the entry ``name`` and its unfinished builds; False when there is no such entry.

    A machine that runs from the entry keeps its mappings. Waits for a build in progress.
    """
    if name.startswith(".") or "/" in name:
        raise ConfigurationError(f"cache entry {name!r}: not a name that 'entries' lists")
    if not os.path.isdir(root()):
        return False
    with _locked(name, None):
        found = lookup(name)
        if found:
            found.rename(_unfinished(name))
        for left in _left_behind(name):
            _discard(left)
    return found is not None


def _publish(name: str, make: Callable[[Path], None], resumable: bool) -> Path:
    left = _left_behind(name)
    unfinished = left.pop() if resumable and left else _unfinished(name)
    for folder in left:
        _discard(folder)
    try:
        unfinished.mkdir(_MODE, exist_ok=True)
        make(unfinished)
        _keep_others_out(unfinished)
        unfinished.rename(root() / name)
    except BaseException as error:
        if isinstance(error, Exception) or not resumable:
            _discard(unfinished)
        raise
    return root() / name


def check_owner(path: Path) -> None:
    """Raise ``ConfigurationError`` when others can change what is in a folder of the cache."""
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


def _keep_others_out(folder: Path) -> None:
    """Let nobody else write to a folder and what is in it, whatever the umask was."""
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if mode & _OTHERS_WRITE and not path.is_symlink():
            path.chmod(mode & 0o7777 & ~_OTHERS_WRITE)


def _unfinished(name: str) -> Path:
    return root() / f"{_UNFINISHED}{name}~{os.urandom(4).hex()}"


def _left_behind(name: str) -> list[Path]:
    """Return the folders of dead builders of ``name``: the caller holds the lock, so all are."""
    return [root() / one for one in os.listdir(root()) if one.startswith(f"{_UNFINISHED}{name}~")]


def _discard(folder: Path) -> None:
    import shutil

    # A compiler that outlives its killed parent may still add files; the next sweep takes those.
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(name: str, waiting: Callable[[], None] | None) -> Iterator[None]:
    """Hold the lock of ``name``: the kernel drops it when the process dies, however it dies."""
    fd = _open_lock(name)
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


def _open_lock(name: str) -> int:
    # Lock files stay: unlinking one that another process waits on would let two builders in.
    folder = root() / _LOCKS
    try:
        root().mkdir(_MODE, parents=True, exist_ok=True)
        folder.mkdir(_MODE, exist_ok=True)
        if not os.access(root(), os.W_OK | os.X_OK):
            raise PermissionError(0, "Permission denied")
        check_owner(root())
        return os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigurationError(f"cache {root()}: {error.strerror}; {_HOW_TO_MOVE}") from error


def _entry(path: Path) -> Entry:
    size = sum(file.lstat().st_blocks * 512 for file in path.rglob("*"))
    return Entry(path.name, path, size)
