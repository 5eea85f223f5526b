"""The wire from a device to the guest's interrupt controller, as a transport sees it."""

from typing import Protocol


class InterruptLine(Protocol):
    """The wire to the guest's interrupt controller.

    Both calls are made with the lock of the device's interrupts held: they return at once and call
    nothing back. A line wired for edges makes a new edge at every :meth:`raise_` and ignores
    :meth:`lower`; a line wired for levels keeps its level, however often it is told.
    """

    def raise_(self) -> None:
        """Signal the guest."""

    def lower(self) -> None:
        """Take the signal back: the driver acknowledged everything."""
