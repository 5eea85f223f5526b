"""Who holds a lock of a file: proc(5) tells of locks with the descriptors of each process.

fcntl(2) does not: a lock that belongs to an open file has no process (``l_pid`` is -1).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from virtio.saved import shown


def holder(status: os.stat_result, byte: int, *, but: int = -1) -> str:
    """Return the process that has a byte of this file locked, or nothing when none is seen.

    Processes of other users are seen only by root. ``but`` is a descriptor of our own that does not
    count.
    """
    ours = os.getpid()
    for process in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        for fd in _descriptors(process, status):
            if (process, fd) != (ours, but) and _has_lock(process, fd, byte):
                return "this process" if process == ours else _described(process)
    return ""


def _descriptors(process: int, status: os.stat_result) -> Iterator[int]:
    """Yield the descriptors by which a process has the file open."""
    folder = f"/proc/{process}/fd"
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):
                if os.path.samestat(os.stat(f"{folder}/{name}"), status):
                    yield int(name)


def _has_lock(process: int, fd: int, byte: int) -> bool:
    """Whether a descriptor holds a lock that covers a byte."""
    with suppress(OSError), open(f"/proc/{process}/fdinfo/{fd}", encoding="utf-8") as file:
        # lock:   1: OFDLCK  ADVISORY  READ  -1 08:01:123 100 100
        locks = [line.split() for line in file if line.startswith("lock:")]
        return any(_covers(lock, byte) for lock in locks)
    return False


def _covers(lock: list[str], byte: int) -> bool:
    if len(lock) != 9 or lock[2] not in ("OFDLCK", "POSIX"):
        return False
    first, last = lock[-2:]
    return int(first) <= byte and (last == "EOF" or byte <= int(last))


def _described(process: int) -> str:
    command = ""
    with suppress(OSError), open(f"/proc/{process}/cmdline", "rb") as file:
        command = " ".join(file.read(4096).decode("utf-8", "replace").split("\0")).strip()
    return f"process {process} ({shown(command)})" if command else f"process {process}"
