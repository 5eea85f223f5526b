"""A snapshot: a machine at one moment, from which any number of machines can go on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from virtio.device.lifecycle import VirtioDevice
from virtio.errors import ConfigurationError
from virtio.saved import shown
from vmm.config import MachineConfig
from vmm.disk.place import absolute
from vmm.host.files import Extent
from vmm.host.resource import Resource
from vmm.snapshot.disks import (
    FrozenDisk,
    SavedDisk,
    check_disks,
    check_names,
    files_of,
    load_disk,
    save_disk,
)
from vmm.snapshot.folder import SnapshotFolder, new_folder, written
from vmm.snapshot.memory import SavedMemory, open_memory, save_memory
from vmm.snapshot.plain import from_plain, to_plain
from vmm.snapshot.shares import check_shares_trusted
from vmm.snapshot.state import MachineState
from vmm.snapshot.state_file import read_state, write_state
from vmm.snapshot.target import Target
from vmm.x86 import HostIdentity, check_vcpu_state

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
        unused: Sequence[Extent] = (),
    ) -> None:
        """``unused`` are parts of the file ``memory`` that the guest does without, in order."""
        self.config = config
        self.state = state
        self.memory = memory
        self.disks = disks
        self._unused = unused

    def save(self, folder: Path | str) -> None:
        """Write the snapshot to a new folder, which only its owner can read.

        The folder is there when all is written, or not at all. Raises :class:`ConfigurationError`
        when it is there already, or cannot be written, or when the name of a disk that is not
        copied stands for another file by now.
        """
        with new_folder(Path(folder)) as new:
            files = files_of(self.config.disks, self.disks)
            check_names({path: os.fstat(fd) for path, fd in files.items()})
            self.write(Target.of(new, self.config, self.disks))

    def write(self, target: Target) -> None:
        """Write the snapshot to an empty folder; with a target that is prepared this opens no file.

        Raises :class:`ConfigurationError` when it cannot be written.
        """
        with written(target.folder.path):
            self._write(target)

    def _write(self, target: Target) -> None:
        config, folder = self.config, target.folder
        disks = [
            save_disk(origin, disk, folder, index)
            for index, (origin, disk) in enumerate(zip(target.origins, self.disks, strict=True))
        ]
        memory = save_memory(self.memory, config.memory_bytes, folder, self._unused)
        shares = tuple(replace(one, source=os.path.abspath(one.source)) for one in config.shares)
        kept = tuple(one.absolute() for one in config.disks)
        contents = Contents(
            replace(
                config,
                kernel=None,
                initrd=None,
                devices=(),
                init_arguments=(),
                disks=kept,
                shares=shares,
                nets=tuple(one.saved() for one in config.nets),
                sandbox="off",
            ),
            len(config.devices),
            self.state,
            memory,
            tuple(disks),
        )
        write_state(folder, {"host": to_plain(target.host), "contents": to_plain(contents)})

    @classmethod
    def load(
        cls,
        folder: Path | str,
        devices: tuple[Callable[[], VirtioDevice], ...] = (),
        *,
        trust_disks: Iterable[Path | str] = (),
        trust_shares: Iterable[Path | str] = (),
    ) -> Self:
        """Open a snapshot that was saved; ``devices`` makes those that the machine's author added.

        The folder may come from anybody. Its guest gets to see what is in it, and of other files
        only those in ``trust_disks``: the images of the machine's volatile and read-only disks,
        which were not copied. (The demonstration disk needs no mention.) Of directories it gets
        those in ``trust_shares``, to change them if ``,rw`` stands behind.

        Raises :class:`ConfigurationError` for one of another version, of another host, that is
        damaged, or whose files were changed. The folder must stay as it is while machines run.
        """
        with ExitStack() as opened:
            source = opened.enter_context(SnapshotFolder(Path(folder)))
            plain = read_state(source)
            _read(HostIdentity, plain, "host", source).check(f"snapshot {folder}")
            contents = _read(Contents, plain, "contents", source)
            del plain
            _check(
                contents,
                devices,
                source,
                frozenset(absolute(os.fspath(one)) for one in trust_disks),
            )
            if contents.config.shares:
                check_shares_trusted(contents.config.shares, f"snapshot {folder}", trust_shares)
            memory = open_memory(contents.memory, source)
            with ExitStack() as files:
                files.callback(os.close, memory)
                disks = []
                for one, saved in zip(contents.config.disks, contents.disks, strict=True):
                    disks.append(load_disk(saved, one, source))
                    files.enter_context(disks[-1])
                config = replace(contents.config, devices=devices)
                snapshot = cls(config, contents.state, memory, tuple(disks))
                files.pop_all()
        return snapshot

    def close(self) -> None:
        """Let go of memory and disks; harmless the second time."""
        memory, self.memory = self.memory, -1
        if memory >= 0:
            os.close(memory)
            for disk in self.disks:
                disk.close()


@contextmanager
def saved_machine(folder: Path) -> Iterator[tuple[MachineConfig, MachineState, int]]:
    """Give what a snapshot has of its machine but for the disks: to look at, not to go on from.

    The memory is an open file. Raises :class:`ConfigurationError` for one of another version, or
    that is damaged.
    """
    with SnapshotFolder(folder) as source:
        contents = _read(Contents, read_state(source), "contents", source)
        for one in contents.state.vcpus:
            check_vcpu_state(one)
        if contents.config.memory_bytes != contents.memory.size_bytes:
            raise source.damaged("damaged: memory of another size than its machine has")
        memory = open_memory(contents.memory, source)
        try:
            yield contents.config, contents.state, memory
        finally:
            os.close(memory)


def _read(kind: type[Value], plain: dict[str, Any], key: str, folder: SnapshotFolder) -> Value:
    try:
        return from_plain(kind, plain.get(key))
    except (ConfigurationError, ValueError) as error:
        raise folder.damaged(f"damaged: {key}: {error}") from None


def _check(
    contents: Contents,
    devices: tuple[Callable[[], VirtioDevice], ...],
    folder: SnapshotFolder,
    trusted: frozenset[str],
) -> None:
    """Raise :class:`ConfigurationError` where the parts do not fit each other."""
    config = contents.config
    if len(devices) != contents.devices:
        raise folder.damaged(
            f"{len(devices)} makers of devices are given, {shown(contents.devices)} are needed"
        )
    if config.memory_bytes != contents.memory.size_bytes:
        raise folder.damaged(
            f"damaged: memory of {contents.memory.size_bytes} bytes, its machine has"
            f" {config.memory_bytes}"
        )
    if any(one != one.saved() for one in config.nets):
        raise folder.damaged("damaged: a saved network card has no network")
    if (config.kernel, config.initrd) != (None, None) or config.devices or config.init_arguments:
        raise folder.damaged("damaged: a saved machine has nothing left to boot")
    check_disks(contents.disks, config.disks, f"snapshot {folder.path}", trusted)
