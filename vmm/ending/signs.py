"""The last words of a Linux kernel on the console, which tell why it ends.

A guest has few other ways to say so: a reset looks alike after ``reboot`` and after a panic, and a
power-off without ACPI only halts. The kernel prints these words at every log level. But any program
may print them too, so they only explain an end that is seen otherwise.
"""

import re
from typing import Final

SIGNS: Final = (b"Kernel panic - not syncing", b"reboot: ")
"""A line without any of these is no sign."""

# Patterns are compiled when there is such a line, and not in the time that a start takes.
# A kernel's message begins a line, or comes behind a prompt: then only its timestamp tells.
_TIMESTAMP: Final = r"(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? "
_START: Final = rf"(?:^(?:<\d+>)?|{_TIMESTAMP})"
_PANIC: Final = _START + r"Kernel panic - not syncing: (.*)"
_PANIC_END: Final = _START + r"---\[ end Kernel panic - not syncing"
_POWER_OFF: Final = _START + r"reboot: (?:Power down|System halted)"
_RESTART: Final = _START + r"reboot: (?:Restarting system|machine restart)"


class GuestSigns:
    """The signs seen so far; :meth:`see` takes each line of the console that may be one.

    ``panic`` is the reason of a panic by the console's words, or None. ``panic_ended`` says that
    the panic was printed to its end, after which such a kernel says nothing more.
    """

    def __init__(self) -> None:
        self.panic: str | None = None
        self.panic_ended = False
        self.powered_off = False
        self.restarting = False

    def see(self, line: str) -> None:
        """Look at one line of console output."""
        if match := re.search(_PANIC, line):
            self.panic = self.panic or match[1].strip()
        elif re.search(_PANIC_END, line):
            self.panic_ended = True
        elif re.search(_POWER_OFF, line):
            self.powered_off = True
            self.withdraw_panic()
        elif re.search(_RESTART, line):
            self.restarting = True
            self.withdraw_panic()

    def withdraw_panic(self) -> None:
        """Forget the words of a panic: the guest went on, so they were not its kernel's.

        A kernel that panicked runs no program, and restarts without the words of an orderly end
        (Linux kernel/panic.c, ``emergency_restart``).
        """
        self.panic = None
        self.panic_ended = False
