"""A cgroup for one machine, with limits: made, and given back, from outside. Linux cgroup-v2.rst.

The problem. A cgroup with processes cannot have children with controllers, except for the root; so
the place is seldom below our own cgroup, and rather beside it. And a user may make cgroups only
where the system's manager has delegated that, as systemd does below ``user@UID.service``.

What we do. We go up from our own cgroup, and take the first one where we may make a child and move
a process, and whose children have all controllers that we want; else the one with most of them.

What remains. A controller that is switched on for others on the way stays on; that limits nobody.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from virtio.errors import HostError
from virtio.log import Logger
from vmm.sandbox.limits import Limit, Limits
from vmm.sandbox.mode import SandboxUnavailable

PREFIX: Final = "vmm-jail-"
_LAST_SECONDS: Final = 5.0

NO_PLACE: Final = "no cgroup v2 in which this user may make others"
_HOW: Final = (
    "run it where cgroups are delegated, such as by systemd-run --user --scope, or take"
    " --jail-limit none"
)

_log = Logger(__name__)


class Cgroup:
    """A cgroup that is removed, with all that is left in it, at the end of a ``with`` block."""

    def __init__(self, path: Path | None, lacks: str = "") -> None:
        self.path = path
        self.lacks = lacks

    @classmethod
    def make(cls, limits: Limits, own: Path | None = None) -> Self:
        """Make one near ``own``, this process's by default; ``lacks`` says what it does not limit.

        Raises :class:`SandboxUnavailable` when a limit that was asked for cannot be had.
        """
        own = own or own_cgroup()
        place = None if own is None else _best_place(own, limits)
        if place is None:
            return cls(None, _lacking(limits, limits, NO_PLACE))
        remove_abandoned(place)
        path = place / f"{PREFIX}{os.getpid()}"
        _make(path)
        made = cls(path)
        try:
            lacking = [name for name in limits if not _set(path, name, limits[name])]
            made.lacks = _lacking(limits, lacking, f"{place} has no such controllers")
        except BaseException:
            made.remove()
            raise
        return made

    def join(self) -> None:
        """Move this process into it."""
        if self.path is None:
            return
        try:
            write_present(self.path / "cgroup.procs", "0")
        except OSError as error:
            raise HostError("write", error.errno or 0, f"{self.path}/cgroup.procs") from None

    def has_killed(self) -> bool:
        """Whether the kernel ended a process in it that went over the limit of memory."""
        if self.path is None:
            return False
        try:
            events = (self.path / "memory.events").read_text().splitlines()
        except OSError:
            return False
        return any(one.startswith("oom_kill ") and one != "oom_kill 0" for one in events)

    def remove(self) -> None:
        """End what is left in it, and remove it."""
        if self.path is None:
            return
        with suppress(OSError):  # there since Linux 5.14
            write_present(self.path / "cgroup.kill", "1")
        end_at = time.monotonic() + _LAST_SECONDS
        while True:
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno == errno.EBUSY and time.monotonic() < end_at:
                    time.sleep(0.005)
                    continue
                _log.warning("jail: %s stays: %s", self.path, error.strerror)
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def _make(path: Path) -> None:
    try:
        path.mkdir()
    except OSError as error:
        raise HostError("mkdir", error.errno or 0, str(path)) from None


def _set(path: Path, name: str, limit: Limit) -> bool:
    """Write a limit; False when its controller, or its file, is not here."""
    file = next((one for one in limit.files if (path / one).exists()), None)
    if file is None:
        return False
    try:
        write_present(path / file, limit.text)
        if name == "memory":
            with suppress(FileNotFoundError):  # it is there since Linux 4.19
                write_present(path / "memory.oom.group", "1")
    except OSError as error:
        raise HostError("write", error.errno or 0, f"{limit.text!r} to {file}") from None
    return True


def own_cgroup() -> Path | None:
    """Return the folder of the cgroup that this process is in, or None."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    inside = next((line[3:] for line in lines if line.startswith("0::/")), None)
    for fields in (line.split(" ") for line in mounts):
        if inside is not None and fields[fields.index("-") + 1] == "cgroup2":
            root, where = fields[3], fields[4]
            with suppress(ValueError):  # of another part of the tree
                return Path(where) / Path(inside).relative_to(root)
    return None


def finding() -> str:
    """Return a line about the limits that this user can have."""
    own = own_cgroup()
    names = ("memory", "pids", "cpu", "io")
    place = None if own is None else _best_place(own, names, switch_on=False)
    if place is None:
        return f"no limits: {NO_PLACE}"
    found = [name for name in names if name in _controllers(place, "cgroup.controllers")]
    return f"limits of {', '.join(found) or 'nothing'} by a cgroup in {place}"


def remove_abandoned(place: Path) -> None:
    """Remove what keepers left that were killed; what is in use cannot be removed."""
    for path in place.glob(f"{PREFIX}*"):
        number = path.name.removeprefix(PREFIX)
        if number.isdecimal() and not os.path.exists(f"/proc/{number}"):
            with suppress(OSError):
                path.rmdir()


def _best_place(own: Path, wanted: Iterable[str], *, switch_on: bool = True) -> Path | None:
    """Return where a cgroup has most of the wanted controllers; nothing is switched on in vain."""
    names = set(wanted)
    places = [one for one in (own, *own.parents) if _may_make(one)]
    best, most = None, -1
    for place in places:
        there = len(names & _controllers(place, "cgroup.subtree_control"))
        if there > most:
            best, most = place, there
    for place in places if most < len(names) else ():
        more = names & _controllers(place, "cgroup.controllers")
        if len(more) > most and (not switch_on or _switched_on(place, more)):
            best, most = place, len(more)
    return best


def _may_make(place: Path) -> bool:
    return all(os.access(one, os.W_OK) for one in (place, place / "cgroup.procs"))


def _switched_on(place: Path, names: Iterable[str]) -> bool:
    try:
        write_present(place / "cgroup.subtree_control", " ".join(f"+{one}" for one in names))
    except OSError:  # there are processes in it
        return False
    return True


def _controllers(place: Path, file: str) -> set[str]:
    try:
        return set((place / file).read_text().split())
    except OSError:
        return set()


def write_present(path: Path | str, text: str) -> None:
    """Write to a file of the kernel's, in one call."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _lacking(limits: Limits, names: Iterable[str], reason: str) -> str:
    missing = [name for name in names if limits[name].text != "max"]
    asked = [name for name in missing if limits[name].asked]
    if asked:
        raise SandboxUnavailable(f"jail: no limit of {', '.join(asked)}: {reason}; {_HOW}")
    usual = [name for name in missing if name != "io"]  # which few hosts have
    return f"jail: no limit of {', '.join(usual)}: {reason}; {_HOW}" if usual else ""
