"""Where a snapshot is written, and what has to be known or open for that.

A confined machine opens no file any more. So what saving needs of the host's is opened, and looked
at, before; and the folder gets its name from another process, see ``vmm/cli/snapshot.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from vmm.config import MachineConfig
from vmm.snapshot.disks import FileIdentity, FrozenDisk, data_names, origins
from vmm.snapshot.folder import SnapshotFolder
from vmm.snapshot.memory import MEMORY_FILE
from vmm.snapshot.state_file import STATE_FILE
from vmm.x86 import HostIdentity


@dataclass(frozen=True, slots=True)
class Target:
    """An empty folder to write a snapshot to, the host, and the files that are not copied.

    ``origins`` has, for each disk, the image that stays where it is, or None.
    """

    folder: SnapshotFolder
    host: HostIdentity
    origins: tuple[FileIdentity | None, ...]

    @classmethod
    def of(cls, folder: SnapshotFolder, config: MachineConfig, disks: Sequence[FrozenDisk]) -> Self:
        """Look at the host, and at the images of the ``disks`` of a machine."""
        return cls(folder, HostIdentity.of_this_host(), origins(config.disks, disks))

    def prepare(self, config: MachineConfig) -> None:
        """Make the files of a machine that was booted, which can make none when it is saved."""
        self.folder.prepare((STATE_FILE, MEMORY_FILE, *data_names(config.disks)))
