"""``vmm check-driver``: run a guest, and tell which duties of a virtio driver it keeps.

The exit status is 0 when no duty is broken, 1 when one is; else that of ``vmm run`` for a guest
that did not end by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtio.errors import ConfigurationError
from vmm.cli import run

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command: those of ``vmm run``, and one more."""
    run.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.epilog = (
        "Give it a command, or a kernel, that uses the devices: a duty is kept or broken only as"
        " far as a driver gets. What the guest prints goes to stderr. Exit status: 0 no duty is"
        " broken, 1 one is; else that of vmm run."
    )


def execute(options: Namespace) -> int:
    """Run the guest, print the table, and return the exit status."""
    if options.on_reboot != "exit":
        raise ConfigurationError("check-driver: one table is of one boot; take --on-reboot away")
    options.checks_drivers = True
    return run.execute(options)
