"""``vmm snapshot``: boot a guest and save it, for ``vmm run --restore`` to go on from."""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError, Error
from vmm.cli.interruption import Interruption
from vmm.cli.machine_options import (
    MAX_TIMEOUT_SECONDS,
    add_machine_arguments,
    prepared_machine_config,
)
from vmm.cli.report import report
from vmm.cli.sandbox_options import add_sandbox_argument
from vmm.config import MachineConfig
from vmm.console.output import OutputSink
from vmm.ending.deadline import deadline
from vmm.ending.ending import STATUS_HOST, End, Ending
from vmm.machine import Machine

BOOT_SECONDS: Final = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the new folder to save it in")
    add_machine_arguments(parser)
    add_sandbox_argument(parser)
    parser.add_argument(
        "--when",
        metavar="TEXT",
        help="save the guest when it has printed TEXT (default: when its agent is ready)",
    )
    parser.set_defaults(init_arguments=())


def execute(options: argparse.Namespace) -> int:
    """Boot, save, end, and return the exit status."""
    if options.folder.exists():
        raise ConfigurationError(f"snapshot {options.folder}: exists; choose a new name")
    config = replace(prepared_machine_config(options), sandbox=options.sandbox)
    if options.when is None and config.agent == "none":
        config = replace(config, agent="beside")
    interruption = Interruption()
    seconds = options.timeout or BOOT_SECONDS
    ended = None
    with interruption.by_signals(), Machine(config) as machine, OutputSink(1) as sink:
        interruption.watch(machine)
        machine.console.add_sink(sink.write)
        out_of_time = partial(machine.end, End.TIMEOUT, f"{End.TIMEOUT.value} of {seconds:g} s")
        try:
            with deadline(seconds, out_of_time):
                machine.boot()
                _wait(machine, config, options.when)
            with machine.snapshot() as snapshot:
                snapshot.save(options.folder)
        except Error:
            if machine.ending is None:
                raise
            ended = _with_last_lines(machine.wait(), machine)
    if ended is not None:
        awaited = "its agent was ready" if options.when is None else f"{options.when!r} was printed"
        report(ended, None, f"nothing is saved: the guest ended before {awaited}")
        return ended.status or STATUS_HOST
    print(f"vmm: saved in {options.folder}", file=sys.stderr)
    return 0


def _wait(machine: Machine, config: MachineConfig, text: str | None) -> None:
    """Wait until the guest is where it is to be saved; its end ends the wait."""
    if text is not None:
        machine.console.wait_for(text, MAX_TIMEOUT_SECONDS)
    if config.agent != "none":
        machine.agent.wait_ready(MAX_TIMEOUT_SECONDS)


def _with_last_lines(ending: Ending, machine: Machine) -> Ending:
    """Show what the guest printed last also when it ended as guests should, but too early."""
    if ending.report or ending.end is End.INTERRUPTED:
        return ending
    return Ending(ending.end, ending.message, machine.console_lines(), ending.reported)
