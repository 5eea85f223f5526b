"""Tests against a real guest kernel: what the pytest plugin gives a test, and disks that fail.

The plugin comes with the package: a test that asks for the fixture ``guest`` gets a Linux guest
within milliseconds, restored from a snapshot that is made once.
"""

from typing import TYPE_CHECKING

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from vmm.testing.config import GuestConfig as GuestConfig
    from vmm.testing.errors import GuestComplaintError as GuestComplaintError
    from vmm.testing.errors import GuestEndedError as GuestEndedError
    from vmm.testing.faults import FaultyDisk as FaultyDisk
    from vmm.testing.guest import Guest as Guest
else:
    __getattr__, __all__ = lazy_names(
        __name__,
        {
            "config": "GuestConfig",
            "errors": "GuestComplaintError GuestEndedError",
            "faults": "FaultyDisk",
            "guest": "Guest",
        },
    )
