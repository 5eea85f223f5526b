"""The interrupt of a virtio-mmio device: one line for all events, and a register that tells which.

VIRTIO 1.4 "Notifications From The Device" of "Virtio Over MMIO".
"""

import threading
from typing import Annotated, Any, Final

from transport.line import InterruptLine
from virtio.saved import Within, checked

VIRTIO_MMIO_INT_VRING: Final = 1
VIRTIO_MMIO_INT_CONFIG: Final = 2

StatusBits = Annotated[int, Within(0, VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG)]


class MmioInterrupt:
    """Events set bits of InterruptStatus and raise the line; acknowledgement clears the bits.

    One lock guards both: were the bit and the line not changed together, an event between the
    driver's read of the bits and its acknowledgement would be lost (``MMIO-25``, ``MMIO-26``).
    The lock is innermost, nothing else is taken while it is held. ``status`` may be read without.
    """

    __slots__ = ("_enabled", "_line", "_lock", "config_count", "status", "used_count")

    def __init__(self, line: InterruptLine) -> None:
        self.status = 0
        self.used_count = 0
        self.config_count = 0
        self._enabled = False
        self._line = line
        self._lock = threading.Lock()

    def used(self, queue: int) -> None:
        """Tell the driver of used buffers; each call is an edge, also when the bit is set."""
        with self._lock:
            if self._enabled:
                self.status |= VIRTIO_MMIO_INT_VRING
                self.used_count += 1
                self._line.raise_()

    def config(self) -> None:
        """Tell the driver of a configuration change; each call is an edge."""
        with self._lock:
            if self._enabled:
                self.status |= VIRTIO_MMIO_INT_CONFIG
                self.config_count += 1
                self._line.raise_()

    def acknowledge(self, bits: int) -> None:
        """Clear the given bits, and lower the line with the last one (``MMIO-23``, ``MMIO-24``)."""
        with self._lock:
            if self.status & bits:
                self.status &= ~bits
                if not self.status:
                    self._line.lower()

    def enable(self) -> None:
        """Let events through, from DRIVER_OK on (``COM-02``)."""
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
            self.status = 0
            self._line.lower()

    def forget_queue(self, queue: int) -> None:
        """Do nothing: a queue has nothing of its own here."""

    def describe(self) -> str:
        """Return the bits that are pending, for a person to read."""
        return f"interrupt status {self.status:#x}"

    def state(self) -> dict[str, Any]:
        """Return the bits that are pending."""
        return {"status": self.status}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the bits that :meth:`state` returned; raise the line if there are any."""
        status: int = checked(StatusBits, "interrupt status", state.get("status"))
        with self._lock:
            self.status = status
            if status:
                self._line.raise_()
