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
# A kernel's message begins a line, perhaps behind colours or what a carriage return overwrote; or
# it comes behind a prompt or other text that has no end yet: then only its timestamp tells.
_TIMESTAMP: Final = r"(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? "
_START: Final = rf"(?:(?:^|\r)(?:\x1b\[[0-9;?]*[A-Za-z])*(?:<\d+>)?|{_TIMESTAMP})"
_WORDS: Final = r"Kernel panic - not syncing: (.*)"
_PANIC: Final = _START + _WORDS
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
        self._said: str | None = None
        self._certain = False

    def see(self, line: str) -> None:
        """Look at one line of console output."""
        if re.search(_PANIC_END, line):
            # No program that only quotes a panic prints this too: so the words may be anywhere.
            self.panic = self.panic or self._said
            self.panic_ended = True
        elif match := re.search(_PANIC, line):
            self.panic = self.panic or match[1].strip()
        elif re.search(_POWER_OFF, line):
            self.powered_off = True
            self.withdraw_panic()
        elif re.search(_RESTART, line):
            self.restarting = True
            self.withdraw_panic()
        elif match := re.search(_WORDS, line):
            self._said = self._said or match[1].strip()

    def confirm_panic(self) -> None:
        """Take the words of a panic for its reason, wherever they are: the kernel has told of it.

        They stay the reason whatever a crash kernel says when it comes to its own end.
        """
        self._certain = True
        self.panic = self.panic or self._said

    def withdraw_panic(self) -> None:
        """Forget the words of a panic: the guest went on, so they were not its kernel's.

        A kernel that panicked runs no program, and restarts without the words of an orderly end
        (Linux kernel/panic.c, ``emergency_restart``). Without effect on one that is certain.
        """
        if not self._certain:
            self.panic = self._said = None
            self.panic_ended = False
