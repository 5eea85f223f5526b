"""Snapshots: a machine at one moment as a value, in memory or in a folder.

The names below are imported when they are first used: most machines are never saved.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmm.snapshot.snapshot import Snapshot
    from vmm.snapshot.state import MachineState

__all__ = ["MachineState", "Snapshot"]

_HOMES = {"MachineState": "state", "Snapshot": "snapshot"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"vmm.snapshot.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
