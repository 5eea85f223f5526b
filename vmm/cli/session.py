"""One run of a guest with this terminal as its console, from its start to its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

from vmm.cli.interruption import Interruption
from vmm.cli.report import report
from vmm.config import MachineConfig
from vmm.console.output import OutputSink
from vmm.ending.deadline import deadline
from vmm.ending.ending import End, Ending
from vmm.machine import Machine

if TYPE_CHECKING:
    from argparse import Namespace

    from vmm.console.escape import EscapeAction
    from vmm.snapshot import Snapshot

# A machine whose agent has gone ends soon if its end is why; slow ones write their disks before.
_LAST_SECONDS: Final = 60.0
_NOT_EXECUTABLE: Final = 126
_NOT_FOUND: Final = 127


def run_once(
    start: MachineConfig | Snapshot,
    options: Namespace,
    interruption: Interruption,
    end_at: float | None,
) -> Ending:
    """Boot or restore a guest, serve it until it ends, and print how it did.

    At ``end_at`` on the monotonic clock it ends in any case, whatever waits for it then.
    """
    with ExitStack() as stack:
        restored = not isinstance(start, MachineConfig)
        command = options.init_arguments if restored else ()
        interactive = sys.stdin.isatty() and not command
        made = Machine(start) if isinstance(start, MachineConfig) else Machine.restore(start)
        machine = stack.enter_context(made)
        interruption.watch(machine)
        if end_at is not None:
            message = f"{End.TIMEOUT.value} of {options.timeout:g} s"
            out_of_time = partial(machine.end, End.TIMEOUT, message)
            stack.enter_context(deadline(end_at - time.monotonic(), out_of_time))
        sink = stack.enter_context(OutputSink(1, on_gone=partial(_output_gone, interruption)))
        machine.console.add_sink(_filtered(sink, stack) if options.console_filter else sink.write)
        if interactive:
            from vmm.console.raw_terminal import RawTerminal

            stack.enter_context(RawTerminal(0))
            print("vmm: Ctrl-A x ends the machine, Ctrl-A h shows more keys", file=sys.stderr)
        if restored:
            machine.resume()
        else:
            machine.boot()
        if command:
            _run_command(machine, command, sink)
        else:
            _connect_input(machine, interruption, sink if interactive else None)
        ending = machine.wait()
    report(ending, machine if options.stats else None)
    return ending


def _filtered(sink: OutputSink, stack: ExitStack) -> Callable[[bytes], object]:
    """Return what takes output for ``sink`` and lets text and colours through, until the end."""
    from vmm.console.filter import ConsoleFilter

    console_filter = ConsoleFilter()
    stack.callback(lambda: sink.write(console_filter.end()))
    return lambda data: sink.write(console_filter.feed(data))


def _run_command(machine: Machine, command: Sequence[str], sink: OutputSink) -> None:
    """Run a command by the agent, and end the guest with its status."""
    from vmm.agent import AgentLostError

    try:
        machine.agent.report(_status_of(machine, command, sink))
    except AgentLostError:
        machine.wait(_LAST_SECONDS)


def _status_of(machine: Machine, command: Sequence[str], sink: OutputSink) -> int:
    """Run a command to its end, with its output on ours; return its status as a shell does."""
    from vmm.agent import GuestFileNotFoundError, GuestOSError

    try:
        with machine.agent.start(command) as process:
            for output in process:
                if output.stream == "stdout":
                    sink.write(output.data)
                else:
                    sys.stderr.buffer.write(output.data)
                    sys.stderr.buffer.flush()
            status = process.wait()
    except GuestOSError as error:
        print(f"vmm: {error}", file=sys.stderr)
        return _NOT_FOUND if isinstance(error, GuestFileNotFoundError) else _NOT_EXECUTABLE
    return status if status >= 0 else 128 - status


def _connect_input(
    machine: Machine, interruption: Interruption, terminal: OutputSink | None
) -> None:
    from vmm.console.escape import HELP_TEXT, EscapeAction
    from vmm.console.input import ConsoleInput

    def act(action: EscapeAction) -> None:
        if action is EscapeAction.QUIT:
            interruption("ended by Ctrl-A x")
        elif terminal is not None:
            terminal.write(HELP_TEXT.encode())

    def gone() -> None:
        interruption("the terminal went away")

    console = machine.console
    on_action, on_end = (act, gone) if terminal is not None else (None, None)
    source = ConsoleInput(machine.loop, 0, console.receive, on_action, on_end)
    console.on_space = source.on_space
    source.start()


def _output_gone(interruption: Interruption, error: OSError) -> None:
    interruption(f"nobody reads the console output any more: {error.strerror}")
