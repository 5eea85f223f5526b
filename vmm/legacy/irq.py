"""The wire from a device of the PC to an input of the interrupt controller."""

from typing import Protocol


class IrqLine(Protocol):
    """One input of the interrupt controller, named by its number when the line was made.

    A device calls it with its own lock held: both calls return at once and call nothing back. A
    line wired for edges makes a new edge at every :meth:`raise_` and ignores :meth:`lower`; a line
    wired for levels keeps its level, however often a device calls it.
    """

    def raise_(self) -> None:
        """Signal the guest."""

    def lower(self) -> None:
        """Take the signal back."""
