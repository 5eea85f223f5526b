"""The room that snapshots of booted guests take in the cache, and which of them go first.

Images stay until they are removed: they take minutes to make. Snapshots take seconds, and there is
one for each guest that tests want: past a limit in bytes those go that were not used for the
longest time, but none that a process uses. flock(2).
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from vmm.host.size import parse_size
from vmm.image import cache
from vmm.image.cache_place import is_taken

SNAPSHOT_PREFIX: Final = "snapshot-"
LIMIT_VARIABLE: Final = "PYVMM_CACHE_LIMIT"
_DEFAULT_LIMIT: Final = "4G"


def limit_bytes() -> int:
    """Return how many bytes snapshots may take together: ``$PYVMM_CACHE_LIMIT``, else 4 GiB.

    Raises :class:`ConfigurationError` when the variable is no size.
    """
    text = os.environ.get(LIMIT_VARIABLE) or _DEFAULT_LIMIT
    try:
        return parse_size(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{LIMIT_VARIABLE}: {error}") from None


def hold(entry: Path) -> int | None:
    """Keep an entry from being evicted until the file that is returned is closed.

    None when it has just been removed.
    """
    try:
        fd = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(fd, fcntl.LOCK_SH)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.stat(entry), os.fstat(fd)):
            with suppress(OSError):  # somebody else's, or on a disk that is read-only
                os.utime(entry)
            return fd
    os.close(fd)
    return None


def is_held(entry: Path) -> bool:
    """Whether a process uses an entry, or evicts it, just now."""
    try:
        fd = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    return is_taken(fd, fcntl.LOCK_EX)


def trim(limit: int | None = None) -> list[cache.Entry]:
    """Evict snapshots until the others take no more than the limit; return the evicted ones.

    Those in use stay, even past the limit.
    """
    limit = limit_bytes() if limit is None else limit
    snapshots = [one for one in cache.entries() if one.name.startswith(SNAPSHOT_PREFIX)]
    size, gone = sum(one.size_bytes for one in snapshots), []
    for one in sorted(snapshots, key=_last_use):
        if size <= limit:
            break
        if _evict(one):
            size -= one.size_bytes
            gone.append(one)
    return gone


def _last_use(entry: cache.Entry) -> float:
    try:
        return entry.path.stat().st_mtime
    except OSError:
        return 0.0


def _evict(entry: cache.Entry) -> bool:
    """Remove an entry unless it is in use; whoever comes meanwhile finds that it has gone."""
    try:
        fd = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cache.remove(entry.name)
    except (BlockingIOError, ConfigurationError):  # in use, or somebody else's
        return False
    finally:
        os.close(fd)
