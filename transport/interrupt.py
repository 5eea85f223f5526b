"""The interrupt status of a device, and the line that carries it to the guest.

VIRTIO 1.4 "Notifications From The Device" of "Virtio Over MMIO".
"""

import threading
from typing import Final, Protocol

from transport.stats import TransportStats

VIRTIO_MMIO_INT_VRING: Final = 1
VIRTIO_MMIO_INT_CONFIG: Final = 2


class InterruptLine(Protocol):
    """The wire to the guest's interrupt controller.

    Both calls are made with the register lock held: they return at once and call nothing back. A
    line wired for edges makes a new one at every :meth:`raise_` and does nothing at :meth:`lower`;
    one wired for levels keeps the level, however often it is told.
    """

    def raise_(self) -> None:
        """Signal the guest."""

    def lower(self) -> None:
        """Take the signal back: everything was acknowledged."""


class InterruptStatus:
    """The status bits, set by events and cleared by acknowledgement, one lock over both.

    With the bit and the line under the lock that acknowledgement takes, no event between a
    driver's read and its acknowledgement is lost (``MMIO-25``, ``MMIO-26``). ``value`` may be read
    without the lock. Nothing is set before :meth:`enable`, at DRIVER_OK (``COM-02``).
    """

    __slots__ = ("_enabled", "_line", "_lock", "_stats", "value")

    def __init__(self, line: InterruptLine, lock: threading.Lock, stats: TransportStats) -> None:
        self.value = 0
        self._enabled = False
        self._line = line
        self._lock = lock
        self._stats = stats

    def notify_used(self) -> None:
        """Tell the driver of used buffers; each call is an edge, also when the bit is set."""
        with self._lock:
            if self._enabled:
                self.value |= VIRTIO_MMIO_INT_VRING
                self._stats.interrupts += 1
                self._line.raise_()

    def notify_config(self) -> None:
        """Tell the driver of a configuration change."""
        with self._lock:
            if self._enabled:
                self.value |= VIRTIO_MMIO_INT_CONFIG
                self._stats.config_changes += 1
                self._line.raise_()

    def acknowledge(self, bits: int) -> None:
        """Clear the bits given, and the line with the last of them (``MMIO-23``, ``MMIO-24``)."""
        with self._lock:
            if self.value & bits:
                self.value &= ~bits
                if not self.value:
                    self._line.lower()

    def enable(self) -> None:
        """Let events through from here on."""
        with self._lock:
            self._enabled = True

    def disable(self) -> None:
        """Drop all further events; what is pending stays for the driver to acknowledge."""
        with self._lock:
            self._enabled = False

    def reset(self) -> None:
        """Drop what is pending and all further events (``MMIO-28``)."""
        with self._lock:
            self._enabled = False
            self.value = 0
            self._line.lower()

    def restore(self, value: int) -> None:
        """Take over bits that were pending when a state was saved."""
        with self._lock:
            self.value = value
            if value:
                self._line.raise_()
