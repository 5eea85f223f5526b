"""Snapshots of booted guests: made once for each configuration, by one process, and kept.

The name of an entry ends in a digest of everything that the booted guest depends on: what it boots,
its machine, this host's processor and start, and the source of this program. So none is ever out of
date.
"""

import os
from pathlib import Path
from typing import Final

import transport
import virtio
import vmm
from virtio.errors import ConfigurationError
from vmm.boot_source import boot_source
from vmm.config import MachineConfig
from vmm.image import cache
from vmm.image.content import file_digest, tree_digest
from vmm.machine import Machine
from vmm.snapshot import Snapshot
from vmm.snapshot.plain import to_plain
from vmm.snapshot.state_file import VERSION
from vmm.testing.config import GuestConfig
from vmm.x86 import HostIdentity

PREFIX: Final = "snapshot-"
KEPT: Final = 12
BOOT_SECONDS: Final = 900.0

_FOLDER: Final = "machine"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class SnapshotStore:
    """The snapshots that one test run uses, each loaded once; :meth:`close` lets go of them."""

    def __init__(self) -> None:
        self._loaded: dict[str, Snapshot] = {}

    def get(self, config: GuestConfig) -> Snapshot:
        """Return the snapshot of a guest, booted and saved first when there is none."""
        machine = config.machine()
        name = entry_name(machine)
        if name not in self._loaded:
            entry = cache.obtain(name, lambda folder: _make(machine, name, folder / _FOLDER))
            os.utime(entry)  # those that were not used for the longest time go first
            self._loaded[name] = Snapshot.load(entry / _FOLDER)
        return self._loaded[name]

    def close(self) -> None:
        """Let go of all of them."""
        for snapshot in self._loaded.values():
            snapshot.close()
        self._loaded.clear()


def entry_name(machine: MachineConfig) -> str:
    """Return the name under which the snapshot of a machine is kept."""
    source = boot_source(machine)
    initrd = source.initrd or b""
    content = initrd if isinstance(initrd, bytes) else file_digest(initrd)
    return PREFIX + cache.digest(
        str(VERSION),
        repr(to_plain(HostIdentity.of_this_host())),
        _BOOT_ID.read_text(),  # some hosts refuse the snapshots from before their start
        file_digest(source.kernel),
        content,
        source.cmdline,
        repr((machine.memory_bytes, machine.cpus, machine.spare_slots, machine.boot)),
        *_source_digests(),
    )


def _make(config: MachineConfig, name: str, folder: Path) -> None:
    _remove_oldest()
    with Machine(config) as machine:
        machine.boot()
        machine.agent.wait_ready(BOOT_SECONDS)
        with machine.snapshot() as snapshot:
            snapshot.save(folder)
    if entry_name(config) != name:
        raise ConfigurationError(
            "the kernel, the initrd or this program was changed while the guest booted: try again"
        )


def _remove_oldest() -> None:
    kept = [entry for entry in cache.entries() if entry.name.startswith(PREFIX)]
    kept.sort(key=lambda entry: entry.path.stat().st_mtime)
    for entry in kept[: max(0, len(kept) - KEPT + 1)]:
        cache.remove(entry.name)


def _source_digests() -> list[str]:
    packages = (virtio, transport, vmm)
    folders = sorted(Path(str(package.__file__)).parent for package in packages)
    return [tree_digest(folder, (".py", ".so")) for folder in folders]
