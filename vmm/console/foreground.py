"""Whose a terminal is at this moment: job control of the shell that we run in. tcgetpgrp(3)."""

import os
from functools import cache


def is_in_background(fd: int) -> bool:
    """Whether a terminal's foreground belongs to another process group than ours.

    A read of it would stop this process with SIGTTIN, a change of its modes with SIGTTOU.
    """
    try:
        return os.tcgetpgrp(fd) != os.getpgrp()
    except OSError:
        # No terminal, or not the controlling one, so there is no job control on it.
        return False


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
        return int(file.read().rpartition(b")")[2].split()[1])  # proc(5): the name may be anything
