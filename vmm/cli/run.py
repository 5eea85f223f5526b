"""``vmm run``: boot a guest, with this terminal as its console."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from virtio.engine import ENGINES, use
from virtio.errors import ConfigurationError
from vmm.cli.interruption import Interruption
from vmm.cli.machine_options import add_machine_arguments, prepared_machine_config
from vmm.cli.quick_options import QuickOptions
from vmm.cli.session import run_once
from vmm.config import MachineConfig
from vmm.ending.ending import End

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from vmm.snapshot import Snapshot


def add_arguments(parser: ArgumentParser | QuickOptions) -> None:
    """Add the options of this command."""
    add_machine_arguments(parser)
    parser.add_argument(
        "--restore",
        type=Path,
        metavar="FOLDER",
        help="go on from a saved guest instead of booting one; ARGUMENTs are a command for it",
    )
    parser.add_argument(
        "--trust-disk",
        action="append",
        default=[],
        metavar="FILE",
        help="let a restored guest have this image, which its snapshot names; may be repeated",
    )
    parser.add_argument(
        "--on-reboot",
        choices=("exit", "restart"),
        default="exit",
        help="what to do when the guest reboots (default: exit, with status 120)",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        help="what serves the rings (default: native, where it was built)",
    )
    parser.add_argument(
        "--console-filter",
        action="store_true",
        help="show text and colours of the guest's console only; by default the terminal gets, and"
        " obeys, all that the guest prints",
    )
    parser.add_argument("--stats", action="store_true", help="print counts at the end")
    parser.add_argument(
        "init_arguments", nargs="*", metavar="ARGUMENT", help="arguments for the guest's init"
    )


def execute(options: Namespace) -> int:
    """Run the guest, again after each reboot if asked for, and return the exit status."""
    if options.engine is not None:
        use(options.engine)
    interruption = Interruption()
    with ExitStack() as stack:
        start = _start_of(options, stack)
        stack.enter_context(interruption.by_signals())
        end_at = None if options.timeout is None else time.monotonic() + options.timeout
        while True:
            ending = run_once(start, options, interruption, end_at)
            if ending.end is not End.REBOOT or options.on_reboot == "exit":
                return ending.status


def _start_of(options: Namespace, stack: ExitStack) -> MachineConfig | Snapshot:
    """Return what the machine begins with: a configuration, or a snapshot, which is checked."""
    if options.restore is None:
        if options.trust_disk:
            raise ConfigurationError("--trust-disk: it is for a guest that is restored")
        return prepared_machine_config(options)
    from vmm.snapshot import Snapshot

    _check_restore(options)
    snapshot = stack.enter_context(Snapshot.load(options.restore, trust_disks=options.trust_disk))
    if options.init_arguments and snapshot.config.agent == "none":
        raise ConfigurationError(f"snapshot {options.restore}: no agent in it runs commands")
    return snapshot


def _check_restore(options: Namespace) -> None:
    parser = QuickOptions()
    add_machine_arguments(parser)
    defaults = vars(parser.parse([])) | {"timeout": options.timeout}
    changed = [name for name, value in defaults.items() if getattr(options, name) != value]
    if changed:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise ConfigurationError(f"--restore: the machine is as it was saved; take {names} away")
