"""A small KVM virtual machine monitor: boots a real Linux guest and gives it virtio devices.

The names below are imported when they are first used, so that the command line starts fast.
"""

from typing import TYPE_CHECKING

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from vmm.config import MachineConfig as MachineConfig
    from vmm.disk.disk import DiskConfig as DiskConfig
    from vmm.ending.ending import End as End
    from vmm.ending.ending import Ending as Ending
    from vmm.machine import Machine as Machine
    from vmm.snapshot import Snapshot as Snapshot
    from vmm.topology import CpuTopology as CpuTopology
else:
    __getattr__, __all__ = lazy_names(
        __name__,
        {
            "config": "MachineConfig",
            "disk.disk": "DiskConfig",
            "ending.ending": "End Ending",
            "machine": "Machine",
            "snapshot": "Snapshot",
            "topology": "CpuTopology",
        },
    )
