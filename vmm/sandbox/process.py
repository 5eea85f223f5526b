"""Confines the process of a machine that has a process of its own, as ``vmm run`` has.

The order. Everything is open, what is imported late is there, and the guest has not been entered.
Then go, one after the other: descriptors that are not the machine's, and ``/dev/kvm``, which makes
other machines; core files and debuggers; all rights of Landlock, which covers a thread and those
that it starts, so that this comes before the first thread; and system calls, by a filter on all
threads. Nothing of that can be taken back.

What remains. stdin, stdout and stderr, which are the user's; what the machine has open; and calls
on these by the list in ``policy.py``.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from vmm.sandbox import host
from vmm.sandbox.mode import SandboxMode, SandboxUnavailable
from vmm.sandbox.policy import ALLOW, ENOSYS, PATHS, USER_NOTIF, OpenFolder, policy
from vmm.sandbox.preload import preload
from vmm.sandbox.program import Soften, program
from vmm.x86 import AUDIT_ARCH, FOREIGN_NUMBERS, RUNNING_REQUESTS, SYSTEM_CALLS

if TYPE_CHECKING:
    from vmm.sandbox.jail import Jail

SPARE_DESCRIPTORS: Final = 64
"""For devices that are plugged, and for the moments in which a descriptor has two owners."""

_STANDARD: Final = 3


class ProcessSandbox:
    """Confines this process in ``mode``; make it before anything is opened.

    ``lacks`` is a line about the parts that this host does not have, which ``auto`` does without.
    Raises :class:`SandboxUnavailable` when the mode is ``require`` and the host lacks a part.
    One that is to be ``jailed`` enters :attr:`jail` first, which is set by then.
    """

    def __init__(self, mode: SandboxMode, *, jailed: bool = False) -> None:
        self.mode = mode
        self.jail: Jail | None = None
        self.lacks = ""
        self._strangers: set[int] = set()
        if mode == "off" and not jailed:
            return
        if mode == "auto" and (faults := host.missing()):
            self.lacks = f"sandbox: {'; '.join(faults)}: going on without that"
        if mode == "require":
            host.check_all()
        if mode == "log" and not host.can_watch():
            raise SandboxUnavailable("sandbox: log: this host cannot tell of refused system calls")
        self._strangers = {fd for fd in descriptors() if fd >= _STANDARD}

    def enter(
        self,
        late: Iterable[str] = (),
        *,
        sockets: int = 0,
        folders: Sequence[OpenFolder] = (),
        debugger: bool = False,
    ) -> None:
        """Confine this process from now on; ``late`` are modules that it may yet import.

        ``sockets`` is the most that it may have open at a time, beside what it has. Below the
        ``folders`` it may still open files, and change them where that is allowed. A ``debugger``
        may be let in, if it is.

        The machine is open and its guest loaded; its threads, and those that serve it, come after.
        """
        if self.mode == "off" and self.jail is None:
            return
        preload(*late, *(["vmm.x86.debug.requests"] if debugger else []))
        gc.freeze()  # a search for garbage among what was imported would find none
        for fd in self._strangers:
            os.close(fd)
        spare = SPARE_DESCRIPTORS + sockets + sum(one.descriptors for one in folders)
        most = max(descriptors()) + 1 + spare
        if self.jail is not None:
            self.jail.enter()  # before Landlock, which lets nobody mount
        if self.mode == "off":
            return
        if self.mode == "log":
            code = filter_for(
                soften=_asking, sockets=bool(sockets), folders=folders, debugger=debugger
            )
            host.watch_filter(code, SYSTEM_CALLS, PATHS)
            return
        host.limit_process(most)
        host.deny_files_and_network(signals=True, folders=folders)
        if host.has_seccomp():
            code = filter_for(sockets=bool(sockets), folders=folders, debugger=debugger)
            host.set_filter(code, all_threads=True)


def filter_for(
    soften: Soften = lambda action: action,
    *,
    sockets: bool = False,
    folders: Sequence[OpenFolder] = (),
    debugger: bool = False,
) -> bytes:
    """Return the filter for a machine in this process, with sockets, and sharing these folders."""
    requests = [one.number for one in RUNNING_REQUESTS]
    if debugger:
        from vmm.x86 import DEBUGGER_REQUESTS

        requests += [one.number for one in DEBUGGER_REQUESTS]
    return program(
        policy(requests, os.getpid(), sockets=sockets, folders=folders),
        SYSTEM_CALLS,
        architecture=AUDIT_ARCH,
        foreign_numbers=FOREIGN_NUMBERS,
        soften=soften,
    )


def _asking(action: int) -> int:
    """Have the filter ask, rather than refuse; only what the library can do without is answered."""
    return action if action in (ALLOW, ENOSYS) else USER_NOTIF


def descriptors() -> list[int]:
    """Return the open descriptors of this process."""
    # One of the numbers is that of the folder, which is closed again.
    return [fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_open(fd)]


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
