"""``vmm trace``: run a guest, and tell on stdout what it does, a line for each event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.cli import run

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command: those of ``vmm run``."""
    run.add_arguments(parser)


def execute(options: Namespace) -> int:
    """Run the guest, and return the exit status.

    Without ``--console-to`` the console is not shown: it would stand in the midst of the events.
    """
    options.is_live = True
    options.console_to = options.console_to or "none"
    return run.execute(options)
