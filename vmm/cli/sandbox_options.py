"""The options that say how the process of a machine is confined."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from virtio.errors import ConfigurationError
from vmm.sandbox.mode import MODES, usual_mode
from vmm.sandbox.process import ProcessSandbox

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from vmm.cli.quick_options import QuickOptions

_UNCONFINED: Final = (
    "no sandbox, as --device is code of your own; with --sandbox=auto it is confined, too, and"
    " opens no file while the guest runs"
)

_RELOADED: Final = "no sandbox, as --reload loads code of your own while the guest runs"


def add_sandbox_argument(parser: ArgumentParser | QuickOptions) -> None:
    """Add the option that says how the machine's process is confined."""
    parser.add_argument(
        "--sandbox",
        choices=MODES,
        help="what is taken from this process before the guest runs: all that the host can take"
        " (auto, the default without --device), nothing (off), or nothing but a line for each call"
        " that would be refused (log); with require a host that lacks a part is an error",
    )


def sandbox_of(options: Namespace, *, jailed: bool = False) -> ProcessSandbox:
    """Return the sandbox for this process, and say what it lacks; call it before files are open.

    Devices of the user's own are code that may well open files: with them none is the default.
    """
    has_own_code = bool(getattr(options, "device", ()))
    mode = options.sandbox or usual_mode("off" if has_own_code and not jailed else "auto")
    sandbox = ProcessSandbox(mode, jailed=jailed)
    if sandbox.lacks:
        print(f"vmm: {sandbox.lacks}", file=sys.stderr)
    return sandbox


def tell_unconfined(options: Namespace, sandbox: ProcessSandbox) -> None:
    """Say how to have a sandbox, if there is none and nobody said that there should be none."""
    if options.device and options.sandbox is None and sandbox.mode == "off" and not options.jail:
        print(f"vmm: {_RELOADED if options.reload else _UNCONFINED}", file=sys.stderr)


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
