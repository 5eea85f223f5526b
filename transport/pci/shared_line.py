"""A line that several functions share: it is up while one of them has it up.

PCI Local Bus 3.0 "Interrupt Pins".
"""

import threading

from transport.line import InterruptLine


class SharedLine:
    """Raises and lowers ``line`` for all its taps, each of which is a line of one function.

    Its lock is the last one: it is taken under that of a function's interrupts, and only the line
    is called with it held.
    """

    def __init__(self, line: InterruptLine) -> None:
        self._line = line
        self._raised: set[LineTap] = set()
        self._lock = threading.Lock()

    def tap(self) -> "LineTap":
        """Return the line of one more function."""
        return LineTap(self)

    def set_level(self, tap: "LineTap", *, level: bool) -> None:
        """Take the level of one function."""
        with self._lock:
            before = bool(self._raised)
            if level:
                self._raised.add(tap)
            else:
                self._raised.discard(tap)
            if bool(self._raised) != before:
                if level:
                    self._line.raise_()
                else:
                    self._line.lower()


class LineTap:
    """The line of one function, as far as that knows."""

    def __init__(self, shared: SharedLine) -> None:
        self._shared = shared

    def raise_(self) -> None:
        """Have the line up."""
        self._shared.set_level(self, level=True)

    def lower(self) -> None:
        """Need the line no longer."""
        self._shared.set_level(self, level=False)
