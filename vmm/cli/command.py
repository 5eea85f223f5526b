"""A command that the guest's agent runs, with our standard streams and our exit status as its own.

What the command writes to its output and its errors comes out of ours, byte for byte and as fast as
each is read; our input, and its end, becomes the command's. Somebody who sits at a terminal with
both gets a terminal in the guest. Everything that is needed for it is imported and made before the
guest starts.
"""

from __future__ import annotations

import math
import os
import stat
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from vmm.agent import Agent, GuestFileNotFoundError, GuestOSError
from vmm.agent.protocol import Flag, Request, command, encode
from vmm.cli.stream_writer import LAST_SECONDS, StreamWriter
from vmm.cli.user_input import user_input
from vmm.console.input import ConsoleInput
from vmm.console.window import DEFAULT_SIZE, window_size

if TYPE_CHECKING:
    from vmm.agent import Process
    from vmm.cli.caller import Caller
    from vmm.cli.user_terminal import UserTerminal
    from vmm.machine import Machine

_STEP_SECONDS: Final = 0.1
_NOT_EXECUTABLE: Final = 126
_NOT_FOUND: Final = 127
_NULL_DEVICE: Final = os.makedev(1, 3)


class GuestCommand:
    """One run of ``words`` in ``machine``; ``terminal`` says whether it gets a terminal there.

    It runs as the ``caller`` where there is one, else as the guest's root.

    ``status`` is the exit status as a shell has it, once the command has ended; ``failure`` says
    why some of its output is lost, if it is.
    """

    def __init__(
        self,
        machine: Machine,
        words: Sequence[str],
        *,
        terminal: bool,
        caller: Caller | None = None,
    ) -> None:
        self.status: int | None = None
        self.failure = ""
        self._machine = machine
        self._words = words
        self.has_terminal = terminal
        self._caller = caller
        self._writers = {"stdout": StreamWriter(1, "stdout"), "stderr": StreamWriter(2, "stderr")}
        self._process: Process | None = None
        # One that is too long is refused before a guest is started for it.
        arguments = [os.fsencode(word) for word in words]
        encode(1, Request.RUN, command(arguments, [], b"", flags=Flag(0), timeout_ms=0, credit=0))

    def run(self, terminal: UserTerminal | None) -> int:
        """Start the command when the agent is ready, serve it to its end, and return its status.

        Raises ``AgentLostError`` when the machine ends before.
        """
        agent = self._machine.agent
        try:
            agent.wait_ready(math.inf)
            self._process = process = self._start(agent)
            source = self._connect_input(process, terminal)
            self._pass_output_on(process)
            self.status = status = _status_of(process)
            source.stop()
        except BaseException:
            self._drain(LAST_SECONDS)
            raise
        while not self._drain(_STEP_SECONDS) and self._machine.ending is None:
            pass
        return status

    def resize(self, columns: int, rows: int) -> None:
        """Tell the command's terminal its size."""
        if self._process is not None and self.has_terminal:
            self._process.resize(columns, rows)

    @property
    def was_started(self) -> bool:
        """Whether the guest's agent was ready to take the command."""
        return self._process is not None

    @property
    def _has_input(self) -> bool:
        return self.has_terminal or not _is_null(0)

    def _start(self, agent: Agent) -> Process:
        who = self._caller.options() if self._caller is not None else {}
        if not self.has_terminal:
            return agent.start(self._words, stdin=self._has_input, **who)
        who["env"] = who.get("env", {}) | {"TERM": os.environ.get("TERM", "linux")}
        return agent.start(
            self._words,
            terminal=window_size(1) or DEFAULT_SIZE,
            merge_stderr=os.isatty(2),
            **who,
        )

    def _connect_input(self, process: Process, terminal: UserTerminal | None) -> ConsoleInput:
        if terminal is not None:
            source = terminal.input(process.offer, process.close_stdin)
        else:
            source = ConsoleInput(
                self._machine.loop,
                user_input(),
                process.offer,
                on_delivered=process.close_stdin,
            )
        process.on_space(source.on_space)
        if self._has_input:
            source.start()
        return source

    def _pass_output_on(self, process: Process) -> None:
        for stream, writer in self._writers.items():
            writer.on_written = partial(process.taken, stream)
            writer.on_gone = partial(process.close_output, stream)
        while output := process.take():
            self._writers[output.stream].put(output.data)

    def _drain(self, timeout: float) -> bool:
        """Wait until both readers have all that there is; False after ``timeout`` for each."""
        drained = [writer.drain(timeout) for writer in self._writers.values()]
        for writer in self._writers.values():
            if writer.error is not None and not self.failure:
                self.failure = f"{writer.name}: {writer.error.strerror}"
        return all(drained)


def _status_of(process: Process) -> int:
    """Return the status of a command that has ended, as a shell does."""
    try:
        status = process.wait()
    except GuestOSError as error:
        print(f"vmm: {error}", file=sys.stderr)
        return _NOT_FOUND if isinstance(error, GuestFileNotFoundError) else _NOT_EXECUTABLE
    return status if status >= 0 else 128 - status


def _is_null(fd: int) -> bool:
    """Whether a descriptor is /dev/null, or none: such input need not be carried."""
    try:
        found = os.fstat(fd)
    except OSError:
        return True
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == _NULL_DEVICE
