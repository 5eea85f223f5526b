"""The last words of a Linux kernel on the console, which tell why it ends.

A guest has few other ways to say so: a reset looks alike after ``reboot`` and after a panic, and a
power-off without ACPI only halts. The kernel prints these words at every log level.
"""

import re
from typing import Final

SIGNS: Final = (b"Kernel panic - not syncing", b"reboot: ")
"""A line without any of these is no sign."""

# Patterns are compiled when there is such a line, and not in the time that a start takes.
_TIMESTAMP: Final = r"(?:<\d+>)?(?:\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? )?"
_PANIC: Final = _TIMESTAMP + r"Kernel panic - not syncing: (.*)"
_PANIC_END: Final = _TIMESTAMP + r"---\[ end Kernel panic - not syncing"
_POWER_OFF: Final = _TIMESTAMP + r"reboot: (?:Power down|System halted)"
_RESTART: Final = _TIMESTAMP + r"reboot: (?:Restarting system|machine restart)"


class GuestSigns:
    """The signs seen so far; :meth:`see` takes each line of the console."""

    def __init__(self) -> None:
        self.panic: str | None = None
        self.panic_ended = False
        self.powered_off = False
        self.restarting = False

    def see(self, line: str) -> None:
        """Look at one line of console output."""
        if match := re.match(_PANIC, line):
            self.panic = self.panic or match[1].strip()
        elif re.match(_PANIC_END, line):
            self.panic_ended = True
        elif re.match(_POWER_OFF, line):
            self.powered_off = True
        elif re.match(_RESTART, line):
            self.restarting = True
