"""Tests against a real guest kernel: what the pytest plugin gives a test, and disks that fail.

The plugin comes with the package: a test that asks for the fixture ``guest`` gets a Linux guest
within milliseconds, restored from a snapshot that is made once.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmm.testing.config import GuestConfig
    from vmm.testing.faults import FaultyDisk
    from vmm.testing.guest import Guest, GuestEndedError

__all__ = ["FaultyDisk", "Guest", "GuestConfig", "GuestEndedError"]

_HOMES = {
    "FaultyDisk": "faults",
    "Guest": "guest",
    "GuestConfig": "config",
    "GuestEndedError": "guest",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"vmm.testing.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
