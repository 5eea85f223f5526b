"""The per-user cache of guest images: each is made once, for all processes.

An entry is a folder that appears under its final name only when it is complete. Its name ends in a
digest of everything that went into it, so an entry is never out of date: other inputs, other name.

Reading needs no more than that: in a cache that root filled, what a user adds goes to a folder of
the user's own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.host.digest import sha256
from vmm.image.cache_place import (
    check_owner,
    is_worked_on,
    keep_others_out,
    locked,
    places,
    writable_place,
)
from vmm.image.cache_place import root as root

_UNFINISHED: Final = ".unfinished-"
_RESUMABLE: Final = "resumable-"
_MODE: Final = 0o755
_RESUMABLE_SECONDS: Final = 7 * 24 * 3600
"""How long an interrupted build waits for somebody to go on with it."""


class Entry(NamedTuple):
    """One image in the cache: its name, its folder, its size in bytes, and when it was last used.

    ``unfinished`` says that it is what an interrupted or killed build left, or one at work does.
    """

    name: str
    path: Path
    size_bytes: int
    used: float
    unfinished: bool = False


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
    """Return the folder of the entry ``name`` when it is there to be read; takes no lock.

    Raises ``ConfigurationError`` when somebody else could have put it there.
    """
    for place in places():
        path = place / name
        if os.access(path, os.R_OK | os.X_OK):
            check_owner(place)
            check_owner(path)
            return path
    return None


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
    place = writable_place()
    with locked(place, name, waiting):
        if found := lookup(name):
            return found
        sweep(place)
        return _publish(place, name, make, resumable)


def entries() -> list[Entry]:
    """Return the complete entries, sorted by name."""
    return [
        _entry(place / name, name)
        for place in places()
        for name in _names(place)
        if not name.startswith(".")
    ]


def unfinished() -> list[Entry]:
    """Return what is incomplete, sorted by name: of killed builds, and of those at work."""
    return [
        _entry(place / name, name, unfinished=True)
        for place in places()
        for name in _names(place)
        if _built_name(name)
    ]


def is_at_work(entry: Entry) -> bool:
    """Whether an unfinished entry has a builder that lives."""
    return is_worked_on(entry.path.parent, _built_name(entry.name))


def remove(name: str) -> bool:
    """Remove the entry ``name`` and its unfinished builds, or one unfinished build by its name.

    False when there is none. A machine that runs from the entry keeps its mappings. Waits for a
    build in progress.
    """
    built = _built_name(name)
    if "/" in name or (name.startswith(".") and not built):
        raise ConfigurationError(f"cache entry {name!r}: not a name that 'entries' lists")
    removed = [_remove(place, built or name, name) for place in places()]
    return any(removed)


def _remove(place: Path, built: str, name: str) -> bool:
    wanted = place / name
    left = _left_behind(place, built) if name == built else [wanted]
    if not os.path.isdir(wanted) and not left:
        return False
    check_owner(place)
    with locked(place, built):
        found = os.path.isdir(wanted)
        try:
            if found and name == built:
                gone = _unfinished_path(place, name)
                wanted.rename(gone)
                left.append(gone)
        except OSError as error:
            raise ConfigurationError(f"cache {wanted}: {error.strerror}") from error
        for folder in left:
            _discard(folder)
    return found


def sweep(place: Path) -> None:
    """Remove what killed builders left, unless somebody may go on with it."""
    for name in _names(place):
        built = _built_name(name)
        if not built or is_worked_on(place, built):
            continue
        with suppress(OSError):  # somebody else sweeps too
            age = time.time() - (place / name).stat().st_mtime
            if f"~{_RESUMABLE}" not in name or age > _RESUMABLE_SECONDS:
                _discard(place / name)


def _publish(place: Path, name: str, make: Callable[[Path], None], resumable: bool) -> Path:
    left = _left_behind(place, name)
    folder = left.pop() if resumable and left else _unfinished_path(place, name, resumable)
    for other in left:
        _discard(other)
    try:
        folder.mkdir(_MODE, exist_ok=True)
        make(folder)
        keep_others_out(folder)
        _rename(folder, place / name)
    except BaseException as error:
        if isinstance(error, Exception) or not resumable:
            _discard(folder)
        raise
    return place / name


def _rename(folder: Path, entry: Path) -> None:
    try:
        folder.rename(entry)
    except OSError as error:
        raise ConfigurationError(
            f"cache {entry}: {error.strerror}: somebody else's, who keeps you from reading it"
        ) from error


def _unfinished_path(place: Path, name: str, resumable: bool = False) -> Path:
    return place / f"{_UNFINISHED}{name}~{_RESUMABLE if resumable else ''}{os.urandom(4).hex()}"


def _built_name(name: str) -> str:
    """Return the name of the entry that an unfinished build is for; nothing for other files."""
    if not name.startswith(_UNFINISHED):
        return ""
    return name.removeprefix(_UNFINISHED).rpartition("~")[0]


def _left_behind(place: Path, name: str) -> list[Path]:
    """Return the folders of dead builders of ``name``: whoever holds the lock knows all are."""
    return [place / one for one in _names(place) if _built_name(one) == name]


def _names(place: Path) -> list[str]:
    try:
        return sorted(os.listdir(place))
    except OSError:
        return []


def _discard(folder: Path) -> None:
    import shutil

    # A compiler that outlives its killed parent may still add files; the next sweep takes those.
    shutil.rmtree(folder, ignore_errors=True)


def _entry(path: Path, name: str, *, unfinished: bool = False) -> Entry:
    size, used = 0, 0.0
    for above, folders, files in os.walk(path):
        for one in ("", *folders, *files):
            with suppress(OSError):  # a builder at work
                status = os.lstat(os.path.join(above, one))
                size += status.st_blocks * 512 if one else 0
                used = max(used, status.st_mtime, status.st_atime if one in files else 0)
    return Entry(name, path, size, used, unfinished)
