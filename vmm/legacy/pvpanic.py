"""The pvpanic port, by which a guest kernel tells that it has panicked.

QEMU docs/specs/pvpanic.rst "ISA Interface"; the bits are those of Linux
include/uapi/misc/pvpanic.h.
"""

from collections.abc import Callable

PVPANIC_PORT = 0x505
PORT_COUNT = 1

PVPANIC_PANICKED = 1 << 0
PVPANIC_CRASH_LOADED = 1 << 1
PVPANIC_SHUTDOWN = 1 << 2

SUPPORTED_EVENTS = PVPANIC_PANICKED | PVPANIC_CRASH_LOADED | PVPANIC_SHUTDOWN


class Pvpanic:
    """Calls ``on_event(events)``, a mask of ``PVPANIC_*``, when the guest reports something.

    PVPANIC_PANICKED leaves the case to the host, PVPANIC_CRASH_LOADED to the guest's own crash
    kernel, and PVPANIC_SHUTDOWN is a regular power-off. Bits that were not offered are dropped,
    and with them a report that holds no other. The call is made on the vCPU's thread.
    """

    def __init__(self, on_event: Callable[[int], object]) -> None:
        self._on_event = on_event

    def read(self, offset: int, length: int) -> bytes:
        """Return the events supported, which is how a driver finds the device."""
        return SUPPORTED_EVENTS.to_bytes(length, "little") if offset == 0 else b"\xff" * length

    def write(self, offset: int, data: bytes) -> None:
        """Report the events in the low byte of ``data``."""
        if offset == 0 and data and (events := data[0] & SUPPORTED_EVENTS):
            self._on_event(events)
