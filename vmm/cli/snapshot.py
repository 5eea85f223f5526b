"""``vmm snapshot``: boot a guest and save it, for ``vmm run --restore`` to go on from."""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from vmm.cli.interruption import Interruption
from vmm.cli.machine_options import add_machine_arguments, prepared_machine_config
from vmm.config import MachineConfig
from vmm.console.output import OutputSink
from vmm.machine import Machine

BOOT_SECONDS: Final = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the new folder to save it in")
    add_machine_arguments(parser)
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
    config = prepared_machine_config(options)
    if options.when is None and config.agent == "none":
        config = replace(config, agent="beside")
    interruption = Interruption()
    with interruption.by_signals(), Machine(config) as machine, OutputSink(1) as sink:
        interruption.watch(machine)
        machine.console.add_sink(sink.write)
        machine.boot()
        _wait(machine, config, options.when, time.monotonic() + (options.timeout or BOOT_SECONDS))
        with machine.snapshot() as snapshot:
            snapshot.save(options.folder)
    print(f"vmm: saved in {options.folder}", file=sys.stderr)
    return 0


def _wait(machine: Machine, config: MachineConfig, text: str | None, deadline: float) -> None:
    if text is not None:
        machine.console.wait_for(text, deadline - time.monotonic())
    if config.agent != "none":
        machine.agent.wait_ready(deadline - time.monotonic())
