"""Snapshots: a machine at one moment as a value, in memory or in a folder."""

from vmm.snapshot.snapshot import Snapshot
from vmm.snapshot.state import MachineState

__all__ = ["MachineState", "Snapshot"]
