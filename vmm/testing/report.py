"""The report on a guest that goes with a failed test, for the person who looks for the reason."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from vmm.agent import Result
from vmm.machine import Machine

_LAST_COMMANDS: Final = 10


class LastCommands:
    """The last commands that ran in the guest; :meth:`lines` shows them with how they ended."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_LAST_COMMANDS)

    def started(self, argv: Sequence[str]) -> None:
        """Note a command that begins."""
        self._lines.append(" ".join(map(str, argv)))

    def ended(self, result: Result) -> None:
        """Note how the command that began last has ended."""
        self._lines[-1] += f" -> {result.returncode} after {result.duration_s:.3f} s"

    def lines(self) -> list[str]:
        """Return a line for each command; one without a status has not ended."""
        return list(self._lines)


def describe(machine: Machine, commands: LastCommands) -> str:
    """Return the state of a guest now: its commands, events, console, vCPUs and queues."""
    ending = machine.ending
    lines = [f"guest: {ending.message if ending else 'running'}"]
    lines += ["last commands:", *(f"  {line}" for line in commands.lines())]
    lines += ["last events:", *(f"  {line}" for line in machine.events())]
    return "\n".join([*lines, *machine.describe()])
