"""Whose a terminal is at this moment: job control of the shell that we run in. tcgetpgrp(3)."""

import os
from functools import cache
from typing import Final

# Fields of /proc/PID/stat, behind the name: proc(5).
_PARENT: Final = 1
_GROUP: Final = 2
_FOREGROUND: Final = 5
_STAT_BYTES: Final = 4096

_view: int | None = None


def is_in_background(fd: int) -> bool:
    """Whether a terminal's foreground belongs to another process group than ours.

    A read of it would stop this process with SIGTTIN, a change of its modes with SIGTTOU.
    """
    try:
        foreground, own = os.tcgetpgrp(fd), os.getpgrp()
    except OSError:
        # No terminal, or not the controlling one, so there is no job control on it.
        return False
    if not own and _view is not None:
        fields = _fields(os.pread(_view, _STAT_BYTES, 0))
        foreground, own = int(fields[_FOREGROUND]), int(fields[_GROUP])
    return foreground != own


def keep_view() -> None:
    """Keep open what tells the groups by the numbers that they have outside.

    In a namespace of process numbers all groups from outside have the number 0. proc(5) goes by
    the namespace that it was mounted in.
    """
    global _view
    if _view is None:
        _view = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)


@cache
def may_stop() -> bool:
    """Whether somebody would continue this process group: it is no orphaned one.

    Found out once, as a confined process can no longer read files of proc(5).

    The kernel lets SIGTSTP stop no other: POSIX "Orphaned Process Group". The group's first
    ancestor of another group has to be of our session, as a shell with job control is.
    """
    own = os.getpgrp()
    process = os.getpid()
    try:
        while os.getpgid(process) == own:
            process = _parent(process)
        return os.getsid(process) == os.getsid(0)
    except (OSError, ValueError, IndexError):
        return False


def _parent(process: int) -> int:
    with open(f"/proc/{process}/stat", "rb") as file:
        return int(_fields(file.read())[_PARENT])


def _fields(stat: bytes) -> list[bytes]:
    return stat.rpartition(b")")[2].split()  # the name, before the bracket, may be anything
