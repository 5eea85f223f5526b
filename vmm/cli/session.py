"""One run of a guest with this terminal as its console, from its start to its end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from vmm.cli.interruption import Interruption
from vmm.cli.report import report
from vmm.config import MachineConfig
from vmm.console.output import OutputSink
from vmm.ending.ending import End, Ending
from vmm.machine import Machine

if TYPE_CHECKING:
    from vmm.console.escape import EscapeAction
    from vmm.snapshot import Snapshot


def run_once(
    start: MachineConfig | Snapshot, options: argparse.Namespace, interruption: Interruption
) -> Ending:
    """Boot or restore a guest, serve it until it ends, and print how it did."""
    with ExitStack() as stack:
        restored = not isinstance(start, MachineConfig)
        command = options.init_arguments if restored else ()
        interactive = sys.stdin.isatty() and not command
        made = Machine(start) if isinstance(start, MachineConfig) else Machine.restore(start)
        machine = stack.enter_context(made)
        interruption.watch(machine)
        sink = stack.enter_context(OutputSink(1, on_gone=partial(_output_gone, interruption)))
        machine.console.add_sink(sink.write)
        if interactive:
            from vmm.console.raw_terminal import RawTerminal

            stack.enter_context(RawTerminal(0))
            print("vmm: Ctrl-A x ends the machine, Ctrl-A h shows more keys", file=sys.stderr)
        if restored:
            machine.resume()
        else:
            machine.boot()
        if command:
            _run_command(machine, command, sink, options.timeout)
        else:
            _connect_input(machine, interruption, sink if interactive else None)
        ending = machine.wait(options.timeout)
    report(ending, machine if options.stats else None)
    return ending


def _run_command(
    machine: Machine, command: Sequence[str], sink: OutputSink, timeout: float | None
) -> None:
    """Run a command by the agent, and end the guest with its status."""
    from vmm.agent import AgentLostError, CommandTimeoutError, GuestFileNotFoundError

    try:
        process = machine.agent.start(command, timeout=timeout)
        for output in process:
            if output.stream == "stdout":
                sink.write(output.data)
            else:
                sys.stderr.buffer.write(output.data)
                sys.stderr.buffer.flush()
        status = process.wait()
        machine.agent.report(status if status >= 0 else 128 - status)
    except GuestFileNotFoundError as error:
        print(f"vmm: {error}", file=sys.stderr)
        machine.agent.report(127)
    except AgentLostError:
        pass  # the machine has ended, and says why
    except CommandTimeoutError:
        machine.end(End.TIMEOUT)


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
