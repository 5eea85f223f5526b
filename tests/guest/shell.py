"""A conversation with the shell on a guest's console."""

import itertools
import re
from types import TracebackType
from typing import Self

from vmm.config import MachineConfig
from vmm.ending.ending import Ending
from vmm.machine import Machine

BOOT_DEADLINE = 900.0
COMMAND_DEADLINE = 600.0


class Shell:
    """A machine whose default guest has come up to its shell; :meth:`run` runs a command in it."""

    def __init__(self, config: MachineConfig) -> None:
        self.machine = Machine(config)
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self.machine.__enter__()
        try:
            self.machine.boot()
            self.machine.console.wait_for("guest:/# ", BOOT_DEADLINE)
        except BaseException as error:
            self.machine.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.machine.__exit__(kind, error, traceback)

    def run(self, command: str, deadline: float = COMMAND_DEADLINE) -> tuple[int, str]:
        """Return the command's exit status and its output."""
        number = next(self._numbers)
        # The echo of the line holds no digits after "done-", so only the answer matches.
        self.machine.console.send(f"echo start-$(({number})); {command}; echo done-{number}-$?\n")
        pattern = rf"start-{number}\r?\n(.*?)done-{number}-(\d+)\r?\n"
        found = self.machine.console.wait_for(re.compile(pattern, re.DOTALL), deadline)
        match = re.fullmatch(pattern, found, re.DOTALL)
        assert match is not None
        return int(match[2]), match[1].replace("\r\n", "\n")

    def check(self, command: str, deadline: float = COMMAND_DEADLINE) -> str:
        """Return the output of a command that must succeed, without its last line ending."""
        status, output = self.run(command, deadline)
        assert status == 0, f"{command}: status {status}: {output}"
        return output.rstrip("\n")

    def power_off(self) -> Ending:
        """Power the guest off and return how it ended."""
        self.machine.console.send("poweroff\n")
        return self.machine.wait(COMMAND_DEADLINE)
