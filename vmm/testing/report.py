"""The report on a guest that goes with a failed test, for the person who looks for the reason."""

import os
from collections import deque
from collections.abc import Sequence
from typing import Final

from vmm.agent import Result
from vmm.agent.client import Word
from vmm.machine import Machine

_LAST_COMMANDS: Final = 10


class LastCommands:
    """The last commands that ran in the guest; :meth:`lines` shows them with how they ended."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_LAST_COMMANDS)

    def started(self, argv: Sequence[Word]) -> str:
        """Note a command that begins, and return it as it is shown."""
        command = _shown(argv)
        self._lines.append(command)
        return command

    def ended(self, argv: Sequence[Word], result: Result) -> None:
        """Note how a command has ended: of equal ones, the one that began last."""
        command = _shown(argv)
        for index in reversed(range(len(self._lines))):
            if self._lines[index] == command:
                self._lines[index] += f" -> {result.returncode} after {result.duration_s:.3f} s"
                return

    def lines(self) -> list[str]:
        """Return a line for each command; one without a status has not ended."""
        return list(self._lines)


def describe(machine: Machine, commands: LastCommands, *, positions: bool = True) -> str:
    """Return the state of a guest now: its commands, events, console, vCPUs and queues.

    Without ``positions`` not the vCPUs and queues.
    """
    ending = machine.ending
    lines = [f"guest: {ending.message if ending else 'running'}"]
    lines += ["last commands:", *(f"  {line}" for line in commands.lines())]
    lines += ["last events:", *(f"  {line}" for line in machine.events())]
    if machine.doctor is not None:
        told = [line for one in machine.doctor.diagnoses for line in one.lines]
        lines += ["drivers:", *(f"  {line}" for line in told or ["no mistake was seen"])]
    lines += machine.describe() if positions else machine.console_lines()
    return "\n".join(lines)


def _shown(argv: Sequence[Word]) -> str:
    return " ".join(os.fsdecode(word) for word in argv)
