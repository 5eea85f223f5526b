"""Snapshots of booted guests: made once for each configuration, by one process, and kept.

The name of an entry ends in a digest of everything that the booted guest depends on: what it boots,
its machine, this host's processor and start, and the source of this program. So none is ever out of
date.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import transport
import virtio
import vmm
from virtio.errors import ConfigurationError
from vmm.boot_source import boot_source
from vmm.config import MachineConfig
from vmm.image import cache, default_kernel
from vmm.image.cache_room import SNAPSHOT_PREFIX, hold, limit_bytes, trim
from vmm.image.content import file_digest, tree_digest
from vmm.image.progress import Progress, silent
from vmm.machine import Machine
from vmm.snapshot import Snapshot
from vmm.snapshot.plain import to_plain
from vmm.snapshot.state_file import VERSION
from vmm.testing.boot import booting as bounded
from vmm.testing.boot_log import BootLog
from vmm.testing.config import GuestConfig
from vmm.testing.time_limit import TimeLimit
from vmm.x86 import HostIdentity

_FOREVER: Final = 86400.0

Booting = Callable[[Machine], AbstractContextManager[None]]
"""Gives a block in which the machine boots, for no longer than it may."""

_FOLDER: Final = "machine"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class SnapshotStore:
    """The snapshots that one test run uses, each loaded once; :meth:`close` lets go of them.

    Until then nobody evicts them from the cache.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Snapshot] = {}
        self._logs: dict[str, BootLog] = {}
        self._held: list[int] = []

    def get(
        self, config: GuestConfig, booting: Booting | None = None, progress: Progress = silent
    ) -> Snapshot:
        """Return the snapshot of a guest, booted and saved first when there is none.

        ``booting`` bounds the boot, by default by the configuration's deadline; ``progress`` is
        told of what takes long.
        """
        machine = config.machine()
        if machine.kernel is None:
            default_kernel(
                progress, cpus=machine.cpus, pci=machine.uses_pci, debug=machine.debug_kernel
            )
        name = entry_name(machine)
        if name not in self._loaded:
            limited = booting or (lambda machine: bounded(machine, TimeLimit(config.deadline)))

            def make(folder: Path) -> None:
                progress("booting the guest that tests go on from", "")
                _make(machine, name, folder, limited)

            def waiting() -> None:
                progress("another process is booting the guest that tests go on from; waiting", "")

            entry = self._hold(name, make, waiting)
            try:
                self._loaded[name] = Snapshot.load(entry / _FOLDER)
            except ConfigurationError:  # damaged: whatever did it must not stop the next run
                cache.remove(name)
                entry = self._hold(name, make, waiting)
                self._loaded[name] = Snapshot.load(entry / _FOLDER)
            self._logs[name] = BootLog.load(entry)
        return self._loaded[name]

    def boot_log(self, snapshot: Snapshot) -> BootLog:
        """Return what the kernel of a snapshot of this run printed while it booted."""
        return next(self._logs[name] for name, one in self._loaded.items() if one is snapshot)

    def _hold(self, name: str, make: Callable[[Path], None], waiting: Callable[[], None]) -> Path:
        """Return the entry of a snapshot, which stays there until :meth:`close`."""
        limit_bytes()  # a wrong one is told before a boot
        while True:
            missing = cache.lookup(name) is None
            entry = cache.obtain(name, make, waiting=waiting)
            held = hold(entry)
            if held is not None:
                self._held.append(held)
                if missing:
                    trim()
                return entry

    def close(self) -> None:
        """Let go of all of them."""
        for snapshot in self._loaded.values():
            snapshot.close()
        self._loaded.clear()
        while self._held:
            os.close(self._held.pop())


def entry_name(machine: MachineConfig) -> str:
    """Return the name under which the snapshot of a machine is kept."""
    source = boot_source(machine)
    initrd = source.initrd or b""
    content = initrd if isinstance(initrd, bytes) else file_digest(initrd)
    return SNAPSHOT_PREFIX + cache.digest(
        str(VERSION),
        repr(to_plain(HostIdentity.of_this_host())),
        _BOOT_ID.read_text(),  # some hosts refuse the snapshots from before their start
        file_digest(source.kernel),
        content,
        source.cmdline,
        repr((machine.memory_bytes, machine.topology, machine.spare_slots)),
        repr((machine.boot, machine.vsock, machine.balloon)),
        *_source_digests(),
    )


def _make(config: MachineConfig, name: str, entry: Path, booting: Booting) -> None:
    entry.chmod(0o700)  # the memory of a guest is its owner's: others make a snapshot of their own
    with Machine(config) as machine:
        with booting(machine):
            machine.boot()
            machine.agent.wait_ready(_FOREVER)  # bounded by the end of the machine
            BootLog.take(machine.agent, _FOREVER).save(entry)
        with machine.snapshot() as snapshot:
            snapshot.save(entry / _FOLDER)
    if entry_name(config) != name:
        raise ConfigurationError(
            "the kernel, the initrd or this program was changed while the guest booted: try again"
        )


def _source_digests() -> list[str]:
    packages = (virtio, transport, vmm)
    folders = sorted(Path(str(package.__file__)).parent for package in packages)
    return [tree_digest(folder, (".py", ".so")) for folder in folders]
