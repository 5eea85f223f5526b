"""The options that say how the process of a machine is confined."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from virtio.errors import ConfigurationError
from vmm.sandbox.mode import MODES, usual_mode
from vmm.sandbox.process import ProcessSandbox

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from vmm.cli.quick_options import QuickOptions


def add_sandbox_argument(parser: ArgumentParser | QuickOptions) -> None:
    """Add the option that says how the machine's process is confined."""
    parser.add_argument(
        "--sandbox",
        choices=MODES,
        default=usual_mode(),
        help="what is taken from this process before the guest runs: all that the host can take"
        " (auto, the default), nothing (off), or nothing but a line for each call that would be"
        " refused (log); with require a host that lacks a part is an error",
    )


def sandbox_of(options: Namespace, *, jailed: bool = False) -> ProcessSandbox:
    """Return the sandbox for this process, and say what it lacks; call it before files are open."""
    sandbox = ProcessSandbox(options.sandbox, jailed=jailed)
    if sandbox.lacks:
        print(f"vmm: {sandbox.lacks}", file=sys.stderr)
    return sandbox


def add_jail_arguments(parser: ArgumentParser | QuickOptions) -> None:
    """Add the options for a jail around the machine's process."""
    parser.add_argument(
        "--jail",
        action="store_true",
        help="also put the machine's process in namespaces of its own, with an empty root, no"
        " network, no capabilities, and limits where this user may set them",
    )
    parser.add_argument(
        "--jail-limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another limit of the jail than the usual one: memory=SIZE, pids=NUMBER,"
        " cpu=PROCESSORS or io=WEIGHT, or max for the value; or no limit at all: none",
    )


def check_jail_arguments(options: Namespace) -> None:
    """Raise :class:`ConfigurationError` for limits of a jail that is not wanted."""
    if options.jail_limit and not options.jail:
        raise ConfigurationError("--jail-limit: it is for --jail, which is not given")
    if options.jail and (options.share or options.root is not None):
        raise ConfigurationError(
            "--jail: it hides all directories of the host, and with them what --share and --root"
            " name; take either away"
        )
