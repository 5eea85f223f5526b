"""A snapshot: a machine at one moment, from which any number of machines can go on."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from virtio.device.lifecycle import VirtioDevice
from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.host.resource import Resource
from vmm.snapshot.disks import FrozenDisk, SavedDisk, load_disk, save_disk
from vmm.snapshot.memory import SavedMemory, open_memory, save_memory
from vmm.snapshot.plain import from_plain, to_plain
from vmm.snapshot.state import MachineState
from vmm.snapshot.state_file import read_state, write_state
from vmm.x86 import HostIdentity

STATE_FILE: Final = "state"
MEMORY_FILE: Final = "memory"

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Contents:
    """What the state file of a snapshot holds; ``host`` is checked first, by its own type."""

    config: MachineConfig
    devices: int
    state: MachineState
    memory: SavedMemory
    disks: tuple[SavedDisk, ...]


class Snapshot(Resource):
    """State, memory and disks of a machine, which nothing changes any more.

    Made by :meth:`vmm.Machine.snapshot` or :meth:`load`; :meth:`vmm.Machine.restore` goes on from
    it, as often as wanted and at the same time. The memory is shared: a machine takes only the
    pages that it writes. Restored machines keep what they write to disks in memory.

    ``config`` describes the machine. A context manager; machines may outlive it.
    """

    def __init__(
        self,
        config: MachineConfig,
        state: MachineState,
        memory: int,
        disks: tuple[FrozenDisk, ...],
    ) -> None:
        self.config = config
        self.state = state
        self.memory = memory
        self.disks = disks

    def save(self, folder: Path | str) -> None:
        """Write the snapshot to a new folder.

        Raises :class:`ConfigurationError` when the folder is there already, or cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True)
            self._write(folder)
        except FileExistsError:
            raise ConfigurationError(f"snapshot {folder}: exists; choose a new name") from None
        except OSError as error:
            raise ConfigurationError(f"snapshot {folder}: {error.strerror}") from None

    def _write(self, folder: Path) -> None:
        config = self.config
        disks = [
            save_disk(one, disk, folder, index)
            for index, (one, disk) in enumerate(zip(config.disks, self.disks, strict=True))
        ]
        memory = save_memory(self.memory, config.memory_bytes, folder / MEMORY_FILE)
        contents = Contents(
            replace(config, kernel=None, initrd=None, devices=(), init_arguments=()),
            len(config.devices),
            self.state,
            memory,
            tuple(disks),
        )
        host = to_plain(HostIdentity.of_this_host())
        # Last, so that a folder that was not finished is not taken for a snapshot.
        write_state(folder / STATE_FILE, {"host": host, "contents": to_plain(contents)})

    @classmethod
    def load(cls, folder: Path | str, devices: tuple[Callable[[], VirtioDevice], ...] = ()) -> Self:
        """Open a snapshot that was saved; ``devices`` makes those that the machine's author added.

        Raises :class:`ConfigurationError` for one of another version, of another host, that is
        damaged, or whose files were changed.
        """
        folder = Path(folder)
        plain = read_state(folder / STATE_FILE)
        _read(HostIdentity, plain, "host", folder).check(f"snapshot {folder}")
        contents = _read(Contents, plain, "contents", folder)
        if len(devices) != contents.devices:
            raise ConfigurationError(
                f"snapshot {folder}: {len(devices)} makers of devices are given,"
                f" {contents.devices} are needed"
            )
        with ExitStack() as opened:
            memory = open_memory(contents.memory, folder / MEMORY_FILE)
            opened.callback(os.close, memory)
            disks = []
            for saved in contents.disks:
                disks.append(load_disk(saved, folder))
                opened.enter_context(disks[-1])
            config = replace(contents.config, devices=devices)
            snapshot = cls(config, contents.state, memory, tuple(disks))
            opened.pop_all()
        return snapshot

    def close(self) -> None:
        """Let go of memory and disks; harmless the second time."""
        memory, self.memory = self.memory, -1
        if memory >= 0:
            os.close(memory)
            for disk in self.disks:
                disk.close()


def _read(kind: type[Value], plain: dict[str, Any], key: str, folder: Path) -> Value:
    try:
        return from_plain(kind, plain[key])
    except (KeyError, ValueError) as error:
        raise ConfigurationError(f"snapshot {folder}: damaged: {error}") from None
