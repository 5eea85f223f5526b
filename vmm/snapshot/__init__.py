"""Snapshots: a machine at one moment as a value, in memory or in a folder.

The names below are imported when they are first used: most machines are never saved.
"""

from typing import TYPE_CHECKING

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from vmm.snapshot.snapshot import Snapshot as Snapshot
    from vmm.snapshot.state import MachineState as MachineState
else:
    __getattr__, __all__ = lazy_names(
        __name__,
        {
            "snapshot": "Snapshot",
            "state": "MachineState",
        },
    )
