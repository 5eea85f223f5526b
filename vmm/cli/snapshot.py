"""``vmm snapshot``: boot a guest and save it, for ``vmm run --restore`` to go on from."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from virtio.errors import ConfigurationError, Error
from vmm.cli.interruption import Interruption
from vmm.cli.keeper import run_confined
from vmm.cli.machine_options import (
    MAX_TIMEOUT_SECONDS,
    add_machine_arguments,
    prepared_machine_config,
    split_port,
)
from vmm.cli.report import report
from vmm.cli.sandbox_options import (
    add_jail_arguments,
    add_sandbox_argument,
    check_jail_arguments,
    sandbox_of,
)
from vmm.config import MachineConfig
from vmm.console.output import OutputSink
from vmm.ending.deadline import deadline
from vmm.ending.ending import STATUS_HOST, End, Ending
from vmm.machine import Machine
from vmm.snapshot.disks import check_names, is_kept
from vmm.snapshot.folder import SnapshotFolder, new_folder

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from vmm.sandbox.process import ProcessSandbox

BOOT_SECONDS: Final = 300.0

_LATE: Final = (
    *("json", "vmm.agent.client"),
    *("vmm.snapshot.snapshot", "vmm.snapshot.state", "vmm.x86.vcpu_state", "vmm.x86.kvm.msr"),
    *("virtio.balloon", "vmm.balloon.free_pages", "vmm.balloon.host"),
)


class _NothingSavedError(Exception):
    """Has the unfinished folder go away."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the new folder to save it in")
    add_machine_arguments(parser)
    add_sandbox_argument(parser)
    add_jail_arguments(parser)
    parser.add_argument(
        "--when",
        metavar="TEXT",
        help="save the guest when it has printed TEXT (default: when its agent is ready)",
    )
    parser.set_defaults(init_arguments=())


def execute(options: Namespace) -> int:
    """Boot, save, end, and return the exit status.

    The guest has a confined process, which fills a folder that is open. This one, which is not
    confined, has made the folder and names it in the end.
    """
    check_jail_arguments(options)
    if os.path.lexists(options.folder):
        raise ConfigurationError(f"snapshot {options.folder}: exists; choose a new name")
    config = _config(options)
    images = _images(config)
    interruption = Interruption()
    status = 0
    with suppress(_NothingSavedError), ExitStack() as stack:
        stack.enter_context(interruption.by_signals())
        folder = stack.enter_context(new_folder(options.folder))
        sandbox = sandbox_of(options, jailed=options.jail)
        if options.jail:
            from vmm.cli.jailed import jail_for

            sandbox.jail = stack.enter_context(jail_for(config, options.jail_limit))
        status = run_confined(lambda: _save(config, options, folder, sandbox, interruption))
        if status:
            raise _NothingSavedError
        check_names(images)
    if not status:
        print(f"vmm: saved in {options.folder}", file=sys.stderr)
    return status


def _config(options: Namespace) -> MachineConfig:
    """Return the machine to boot; its disks and shares have names that are good everywhere."""
    for text in options.port:
        if split_port(text)[1]:
            raise ConfigurationError(
                f"--port {text}: a snapshot keeps no file: name it where the guest is restored"
            )
    config = prepared_machine_config(options)
    disks = tuple(one.absolute() for one in config.disks)
    shares = tuple(replace(one, source=os.path.abspath(one.source)) for one in config.shares)
    agent = "beside" if options.when is None and config.agent == "none" else config.agent
    balloon = 0 if options.balloon is None else config.balloon
    return replace(config, disks=disks, shares=shares, agent=agent, balloon=balloon)


def _images(config: MachineConfig) -> dict[str, os.stat_result]:
    """Return which files the disks are that are not copied; the machine tells of one that lacks."""
    found = {}
    for one in config.disks:
        if is_kept(one):
            with suppress(OSError):
                found[one.path] = os.stat(one.path)
    return found


def _save(
    config: MachineConfig,
    options: Namespace,
    folder: SnapshotFolder,
    sandbox: ProcessSandbox,
    interruption: Interruption,
) -> int:
    """Boot a guest in this process, which is confined then; save it, and return the exit status."""
    if sandbox.jail is not None:
        sandbox.jail.begin()
    seconds = options.timeout or BOOT_SECONDS
    if config.shares:
        from vmm.share.limits import raise_limit

        raise_limit(len(config.shares))
    with Machine(config) as machine:
        interruption.watch(machine)
        machine.load()
        target = machine.saving_to(folder)
        machine.hardware.kvm.close()
        sockets = machine.hardware.disk_sockets
        sandbox.enter(_LATE, sockets=sockets, folders=machine.hardware.folders)
        out_of_time = partial(machine.end, End.TIMEOUT, f"{End.TIMEOUT.value} of {seconds:g} s")
        with OutputSink(1) as sink:
            machine.console.add_sink(sink.write)
            try:
                with deadline(seconds, out_of_time):
                    machine.resume()
                    _wait(machine, config, options.when)
                machine.save(target)
                return 0
            except Error:
                if machine.ending is None:
                    raise
                ended = _with_last_lines(machine.wait(), machine)
    awaited = "its agent was ready" if options.when is None else f"{options.when!r} was printed"
    report(ended, None, f"nothing is saved: the guest ended before {awaited}")
    return ended.status or STATUS_HOST


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
