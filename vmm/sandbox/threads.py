"""Confines the threads of a machine in a process that has other work, such as running tests.

The problem. Such a process opens files and starts programs as long as it lives, so nothing of
:mod:`vmm.sandbox.process` is for it.

What we do. Filters and Landlock are a thread's own, and of those that it starts. So each thread
that serves the guest, a vCPU's or a device's, confines itself before it does anything. What is
refused fails with EPERM: nothing ends a process that is somebody else's.

What remains. All threads of a process share its memory: who can write memory as a confined thread
can have another one do what it may not do itself. So this stops a device that is talked into
opening a file, not somebody who runs code of his own; for that a machine needs its own process.
Threads of devices that are plugged later are not confined: they are of the one who plugs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Final

from virtio.errors import ConfigurationError
from vmm.sandbox import host
from vmm.sandbox.mode import SandboxMode
from vmm.sandbox.policy import EPERM, KILL_PROCESS, OpenFolder
from vmm.sandbox.preload import preload
from vmm.sandbox.process import filter_for

# A vCPU's thread saves its state for a snapshot; whoever logs may do it on any thread.
_LATE: Final = (
    *("logging", "virtio.console", "vmm.agent.client"),
    *("vmm.snapshot.state", "vmm.x86.vcpu_state", "vmm.x86.kvm.msr"),
)


def thread_confinement(
    mode: SandboxMode,
    *,
    sockets: bool = False,
    folders: Callable[[], Sequence[OpenFolder]] = tuple,
) -> Callable[[], None]:
    """Return what a thread of a machine calls first, once all late imports are made.

    With ``sockets`` it may use those that the machine has; ``folders`` tells then which directories
    the machine shares.

    Raises :class:`ConfigurationError` for the mode ``log``, which is a process's, and
    :class:`SandboxUnavailable` when the mode is ``require`` and the host lacks a part.
    """
    if mode == "log":
        raise ConfigurationError("sandbox 'log': only the command has it: vmm run --sandbox=log")
    if mode == "require":
        host.check_all()
    preload(*_LATE)

    @cache
    def code(shared: tuple[OpenFolder, ...]) -> bytes:
        return filter_for(soften=_milder, sockets=sockets, folders=shared)

    def confine() -> None:
        # Not the right to signals: the machine's threads signal each other, and each has a domain
        # of its own, which before Linux 6.15 (18eb75f3af40) came between them.
        shared = tuple(folders())
        host.deny_files_and_network(signals=False, folders=shared)
        if host.has_seccomp():
            host.set_filter(code(shared), all_threads=False)

    return confine


def _milder(action: int) -> int:
    return EPERM if action == KILL_PROCESS else action
