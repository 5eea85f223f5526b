"""An outer jail around the process of a machine: namespaces, an empty root, no capabilities.

The sandbox of ``process.py`` refuses system calls. The jail takes away what they could reach:
should the kernel have a fault in a call that stays, there is no file, no network, no other process
and no privilege behind it, and limits on what can be used up.

The problem. A user namespace owns the others, and whoever is in one has no rights over files of
users who are not in it, so a machine has to open its files before. But a namespace of process
numbers is for children, and KVM serves no other process than the one that made the machine.

What we do. The keeper, outside, makes the namespace of process numbers and two children in it: the
first process there, which only waits, as such a one can neither stop nor be ended by most signals;
and the machine's, which opens everything and then enters all other namespaces. Where the keeper may
not make that namespace alone, as a user may not, it enters a user namespace with it, in which it
has no capabilities but the one that lets root of a container be named in a namespace within.

What remains. The machine's user outside stays who it was. Descriptors that are open stay open.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack, suppress
from typing import Final, NoReturn, Self

from virtio.errors import HostError
from vmm.console.foreground import keep_view, may_stop
from vmm.sandbox.cgroup import Cgroup, write_present
from vmm.sandbox.host import NOT_BUILT, ffi, lib
from vmm.sandbox.limits import Limits
from vmm.sandbox.mode import SandboxUnavailable

_SET_FILE_CAPABILITIES: Final = 1 << 31  # CAP_SETFCAP: linux/capability.h

_TAKE_IT_AWAY: Final = "or take --jail away"
_SETTINGS: Final = (
    ("user/max_user_namespaces", "0", "set sysctl user.max_user_namespaces above 0"),
    ("kernel/unprivileged_userns_clone", "0", "set sysctl kernel.unprivileged_userns_clone to 1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "give this Python an AppArmor profile with 'userns,', or set sysctl"
        " kernel.apparmor_restrict_unprivileged_userns to 0",
    ),
)


class Jail:
    """A jail for one process after the other; a ``with`` block of the keeper, which stays outside.

    ``limits`` are those of a cgroup, or None for none, and ``lacks`` is a line about those that
    this host does not have. Raises :class:`SandboxUnavailable` when this host does not let this
    user have one.
    """

    def __init__(self, limits: Limits | None) -> None:
        self.lacks = ""
        self._limits = limits
        self._cgroup: Cgroup | None = None
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        if lib is None:
            raise SandboxUnavailable(f"jail: {NOT_BUILT}, {_TAKE_IT_AWAY}")
        if os.isatty(0):
            may_stop()  # while the numbers of our ancestors are those of proc(5)
        with ExitStack() as resources:
            if self._limits is not None:
                self._cgroup = resources.enter_context(Cgroup.make(self._limits))
                self.lacks = self._cgroup.lacks
            enter_process_numbers()
            resources.callback(_end, _first_process())
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._resources.close()

    def begin(self) -> None:
        """Go under the limits, as the first thing that the process for the jail does."""
        if self._cgroup is not None:
            self._cgroup.join()

    def has_killed(self) -> bool:
        """Whether a process in the jail was ended because it went over the limit of memory."""
        return self._cgroup is not None and self._cgroup.has_killed()

    def enter(self) -> None:
        """Enter the jail, for good: all is open and imported, and there is one thread."""
        keep_view()
        enter_namespaces()


def enter_process_numbers() -> None:
    """Have the children of this process get numbers of their own."""
    user, group = os.geteuid(), os.getegid()
    if not lib.new_process_numbers(0):
        return
    _checked("unshare", lib.new_process_numbers(1))
    _name_ourselves(user, group)
    _checked("capset", lib.keep_capabilities(_SET_FILE_CAPABILITIES))


def enter_namespaces() -> None:
    """Enter namespaces of all other kinds, an empty root, and lose all capabilities."""
    user, group = os.geteuid(), os.getegid()
    _checked("unshare", lib.new_namespaces())
    _name_ourselves(user, group)
    call = ffi.new("const char **")
    result = lib.empty_root(call)
    _checked(ffi.string(call[0]).decode() if call[0] else "", result)
    _checked("prctl", lib.drop_capabilities())
    end_with_parent()


def end_with_parent() -> None:
    """Have this process end when the one that made it does."""
    _checked("prctl", lib.end_with_parent())


def missing() -> str:
    """Return why this host gives no jail, or nothing; tried by a process for that purpose."""
    if lib is None:
        return f"jail: {NOT_BUILT}"
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        _try(writable)
    os.close(writable)
    with open(readable, encoding="utf-8") as reason:
        found = reason.read()
    status = os.waitpid(child, 0)[1]
    return found or (f"jail: it cannot be entered (status {status})" if status else "")


def _try(writable: int) -> NoReturn:
    status = 1
    try:
        enter_process_numbers()
        enter_namespaces()
        status = 0
    except (SandboxUnavailable, HostError) as error:
        os.write(writable, str(error).encode())
    finally:
        os._exit(status)


def _first_process() -> int:
    """Start the process that a namespace of process numbers lives by, and return its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        lib.end_with_parent()
        lib.hold_process_numbers()
    return child


def _end(process: int) -> None:
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def _name_ourselves(user: int, group: int) -> None:
    """Let the new user namespace have our user and our group, by their numbers, and no other."""
    for name, text in (
        ("setgroups", "deny"),  # without which a user may not name the group
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        path = f"/proc/self/{name}"
        try:
            write_present(path, text)
        except OSError as error:
            raise _refused(path, error.errno or 0) from None


def _checked(call: str, result: int) -> None:
    if result < 0:
        raise _refused(call, -result)


def _refused(call: str, number: int) -> SandboxUnavailable:
    advice = [how for name, bad, how in _SETTINGS if _setting(name) == bad]
    what = "; ".join(advice) or "have this host, or its container, allow this user namespaces"
    return SandboxUnavailable(
        f"jail: {call}: {os.strerror(number)}: namespaces are not allowed; {what}, {_TAKE_IT_AWAY}"
    )


def _setting(name: str) -> str:
    with suppress(OSError), open(f"/proc/sys/{name}", encoding="utf-8") as file:
        return file.read().strip()
    return ""
