"""What this host has of the parts of a sandbox, and the calls of ``sandbox.c`` that use them."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any, Final

from virtio.errors import HostError
from vmm.sandbox.mode import SandboxUnavailable
from vmm.sandbox.policy import KILL_PROCESS, USER_NOTIF, OpenFolder

try:
    from vmm.sandbox._sandbox import ffi as ffi
    from vmm.sandbox._sandbox import lib as lib
except ImportError:  # built without a C compiler, or for another machine type
    ffi = lib = None

# linux/landlock.h: the rights of files up to the ABI with that index; then network and scopes.
_FILE_RIGHTS: Final = (0, 13, 14, 15, 15, 16)
_NETWORK_ABI: Final = 4
_BIND_AND_CONNECT_TCP: Final = 0b11
_SCOPE_ABI: Final = 6
# Of files: WRITE_FILE is 1, READ_FILE 2, READ_DIR 3; EXECUTE 0, MAKE_BLOCK 11, IOCTL_DEV 15.
_READS: Final = 1 << 2 | 1 << 3
_CHANGES: Final = 0x7FFF & ~(1 << 0 | 1 << 11)
ABSTRACT_UNIX_SOCKET: Final = 0b01
SIGNAL: Final = 0b10

CUT_OFF: Final = "\r\nvmm: guest memory cannot be read: was the snapshot's file cut off?\r\n"
NOT_BUILT: Final = "its C part was not built; install the package where there is a C compiler"


def landlock_abi() -> int:
    """Return the ABI of Landlock that this kernel has, or 0."""
    return max(0, lib.landlock_abi()) if lib is not None else 0


def missing() -> list[str]:
    """Return what this host lacks of the sandbox, each with the reason; nothing where all is."""
    if lib is None:
        return [NOT_BUILT]
    found = []
    if (abi := lib.landlock_abi()) <= 0:
        reason = {errno.ENOSYS: "this kernel has none", errno.EOPNOTSUPP: "it is turned off"}
        found.append(f"no Landlock: {reason.get(-abi, os.strerror(-abi))}")
    if not has_seccomp():
        found.append("no seccomp filters that end a process")
    elif not lib.has_tsync():
        found.append("no seccomp filters for all threads (TSYNC)")
    return found


def check_all() -> None:
    """Raise :class:`SandboxUnavailable` where anything is missing."""
    if faults := missing():
        raise SandboxUnavailable(
            f"sandbox: {'; '.join(faults)} (--sandbox=auto takes what is there)"
        )


def has_seccomp() -> bool:
    """Whether filters of system calls can be had."""
    return lib is not None and bool(lib.has_action(KILL_PROCESS))


def deny_files_and_network(*, signals: bool, folders: Sequence[OpenFolder] = ()) -> None:
    """Take all rights to open files and to connect from this thread and those it starts.

    With ``signals`` also that of signals to other processes. Below the ``folders`` files may still
    be read, and changed if that is allowed there. Does nothing where the host has no Landlock.
    """
    abi = landlock_abi()
    if not abi:
        return
    files = (1 << _FILE_RIGHTS[min(abi, len(_FILE_RIGHTS) - 1)]) - 1
    network = _BIND_AND_CONNECT_TCP if abi >= _NETWORK_ABI else 0
    scopes = ABSTRACT_UNIX_SOCKET | (SIGNAL if signals else 0) if abi >= _SCOPE_ABI else 0
    descriptors = ffi.new("int[]", [one.fd for one in folders])
    rights = ffi.new("uint64_t[]", [_CHANGES if one.writable else _READS for one in folders])
    _checked(
        "landlock_restrict_self",
        lib.landlock_deny(files, network, scopes, descriptors, rights, len(folders)),
    )


def set_filter(program: bytes, *, all_threads: bool) -> None:
    """Filter the system calls of this thread and those it starts, or of all threads there are."""
    result = lib.set_filter(program, len(program) // 8, all_threads)
    if result > 0:
        raise SandboxUnavailable(f"sandbox: thread {result} has a seccomp filter of its own")
    _checked("seccomp", result)


_kept: list[Any] = []


def watch_filter(program: bytes, numbers: dict[str, int], paths: dict[str, int]) -> None:
    """Have a thread write to stderr what the filter asks about; a process has one such filter."""
    count = max(numbers.values()) + 1
    names = ffi.new("char *[]", count)
    places = ffi.new("int8_t[]", [-1] * count)
    for name, number in numbers.items():
        text = ffi.new("char[]", name.encode())
        _kept.append(text)
        names[number], places[number] = text, paths.get(name, -1)
    _kept.extend((names, places))
    _checked("seccomp", lib.watch_filter(program, len(program) // 8, names, places, count))


def can_watch() -> bool:
    """Whether a filter can ask (SECCOMP_RET_USER_NOTIF), as the mode ``log`` has it do."""
    return lib is not None and bool(lib.has_action(USER_NOTIF))


def limit_process(descriptors: int) -> None:
    """Have no core file, no debugger of the same user, and no descriptor above a number."""
    if lib is not None:
        _checked("setrlimit", lib.limit_process(descriptors))


def explain_bus_errors(message: str, status: int) -> None:
    """End this process with a message when it touches a page whose file was cut off."""
    if lib is not None:
        text = ffi.new("char[]", message.encode())
        _kept.append(text)
        _checked("sigaction", lib.explain_bus_errors(text, len(text) - 1, status))


def _checked(call: str, result: int) -> None:
    if result < 0:
        raise HostError(call, -result, "sandbox")
