"""``vmm top``: run a guest, and show where its time goes: rates, latencies, exits, vCPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from virtio.errors import ConfigurationError
from vmm.cli import run

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

SHORTEST_SECONDS: Final = 0.1


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command: those of ``vmm run``, and one more."""
    run.add_arguments(parser)
    parser.add_argument(
        "--interval",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="how often to draw (default: 1)",
    )


def execute(options: Namespace) -> int:
    """Run the guest, and return the exit status.

    Without ``--console-to`` the console is not shown: it would stand in the midst of the view.
    """
    if not SHORTEST_SECONDS <= options.interval <= 3600:
        raise ConfigurationError(
            f"--interval {options.interval:g}: must be {SHORTEST_SECONDS} to 3600 seconds"
        )
    options.top_interval = options.interval
    options.console_to = options.console_to or "none"
    return run.execute(options)
