"""A small KVM virtual machine monitor: boots a real Linux guest and gives it virtio devices.

The names below are imported when they are first used, so that the command line starts fast.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmm.config import MachineConfig
    from vmm.disk import DiskConfig
    from vmm.ending import End, Ending
    from vmm.machine import Machine
    from vmm.snapshot import Snapshot

__all__ = ["DiskConfig", "End", "Ending", "Machine", "MachineConfig", "Snapshot"]

_HOMES = {
    "DiskConfig": "vmm.disk",
    "End": "vmm.ending",
    "Ending": "vmm.ending",
    "Machine": "vmm.machine",
    "MachineConfig": "vmm.config",
    "Snapshot": "vmm.snapshot",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
