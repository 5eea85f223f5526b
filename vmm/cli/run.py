"""``vmm run``: boot a guest, with this terminal as its console."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from virtio.engine import ENGINES, use
from virtio.errors import ConfigurationError
from vmm.cli.console_output import ConsoleOutput, default_place
from vmm.cli.interruption import Interruption
from vmm.cli.machine_options import (
    add_machine_arguments,
    check_timeout,
    prepared_machine_config,
    split_vsock,
)
from vmm.cli.quick_options import QuickOptions
from vmm.cli.sandbox_options import (
    add_jail_arguments,
    add_sandbox_argument,
    check_jail_arguments,
    sandbox_of,
    tell_unconfined,
)
from vmm.cli.session import run_once
from vmm.config import MachineConfig
from vmm.ending.ending import End, Ending
from vmm.kernel_choice import is_stock

QUIET_AGENT = "VMM_AGENT_QUIET=1"
"""On the kernel command line: an agent that is the first process says nothing on the console."""

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Sequence

    from vmm.cli.explanation import Explanation
    from vmm.cli.trace_options import RunTrace
    from vmm.snapshot import Snapshot


def add_arguments(parser: ArgumentParser | QuickOptions) -> None:
    """Add the options of this command."""
    add_machine_arguments(parser)
    add_sandbox_argument(parser)
    add_jail_arguments(parser)
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
        help="let a restored guest have this image, or NBD export, which its snapshot names; may be"
        " repeated",
    )
    parser.add_argument(
        "--trust-share",
        action="append",
        default=[],
        metavar="DIR[,rw]",
        help="let a restored guest read, or also change, this directory, which its snapshot names;"
        " may be repeated",
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
    parser.add_argument(
        "--console-to",
        metavar="PLACE",
        help="where the console's output goes: stdout, stderr, none or a file (default: stdout;"
        " with a command stderr, or none beside an init of the guest's own)",
    )
    parser.add_argument(
        "--no-tty",
        action="store_false",
        dest="tty",
        help="give the command no terminal, also when stdin and stdout are one",
    )
    parser.add_argument(
        "--trace",
        metavar="FILE",
        help="write what the guest does to a file: .txt to read, .json or .pftrace for Perfetto",
    )
    parser.add_argument(
        "--filter",
        metavar="WORDS",
        help="trace only events that have all these words, such as 'block0 status'; | between"
        " alternatives, ! before what is unwanted",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="tell what the guest's virtio drivers do wrong, or leave out: rule, and what to do",
    )
    parser.add_argument(
        "--gdb",
        metavar="[HOST:]PORT|unix:PATH[,wait=off]",
        help="let a debugger in by GDB's remote protocol; the guest waits for it before its first"
        " instruction, unless wait=off",
    )
    parser.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="FILE.py:CLASS[,NAME=VALUE...]",
        help="a virtio device of your own: a class in a Python file, with arguments by name; may be"
        " repeated. Also transport=mmio|pci; a comma in a name or value is doubled",
    )
    parser.add_argument(
        "--reload",
        action="store_true",
        help="when the file of a --device is saved, have the guest go on with what is there then",
    )
    parser.add_argument("--stats", action="store_true", help="print counts at the end")
    parser.add_argument(
        "init_arguments",
        nargs="*",
        metavar="ARGUMENT",
        help="a command, whose streams and status become those of vmm; with --initrd or a --kernel"
        " that is a file, and without --agent, arguments for the guest's init",
    )


def execute(options: Namespace) -> int:
    """Run the guest, again after each reboot if asked for, and return the exit status."""
    if options.engine is not None:
        use(options.engine)
    check_jail_arguments(options)
    if options.reload:
        from vmm.cli.reload_option import check_reload

        check_reload(options)
    sandbox = sandbox_of(options, jailed=options.jail)
    interruption = Interruption()
    with ExitStack() as stack:
        start, command = _start_of(options, stack)
        tell_unconfined(options, sandbox)
        console = _console(start, command, options, stack)
        explanation = _explanation(options, stack)
        trace = _trace(options, stack)
        stack.enter_context(interruption.by_signals())
        listener = None
        if options.gdb is not None:
            from vmm.cli.debugger import listen

            listener = listen(options.gdb, stack)
        end_at = None if options.timeout is None else time.monotonic() + options.timeout

        def once() -> Ending:
            return run_once(
                start,
                command,
                console,
                options,
                interruption,
                end_at,
                sandbox,
                trace=trace,
                explanation=explanation,
                listener=listener,
            )

        def status_of(ending: Ending) -> int:
            return ending.status if explanation is None else explanation.status(ending)

        if options.jail:
            from vmm.cli.jailed import jail_for

            with jail_for(start, options.jail_limit) as sandbox.jail:
                return _apart(once, options, status_of, sandbox.jail.begin)
        if options.on_reboot == "exit":
            return status_of(once())
        if sandbox.mode != "off":
            return _apart(once, options, status_of)
        while (ending := once()).end is End.REBOOT:
            pass
        return status_of(ending)


def _apart(
    once: Callable[[], Ending],
    options: Namespace,
    status_of: Callable[[Ending], int],
    begin: Callable[[], object] = bool,
) -> int:
    """Run the guest, again after each reboot if asked for, each time in a process of its own.

    That process is confined, and calls ``begin`` first.
    """
    from mmap import mmap

    from vmm.cli.keeper import run_confined

    def run() -> int:
        begin()
        ending = once()
        reboots[0] = options.on_reboot == "restart" and ending.end is End.REBOOT
        return status_of(ending)

    with mmap(-1, 1) as reboots:  # which both processes have
        reboots[0] = True
        while reboots[0]:
            reboots[0] = False
            status = run_confined(run)
    return status


def _start_of(
    options: Namespace, stack: ExitStack
) -> tuple[MachineConfig | Snapshot, Sequence[str]]:
    """Return what the machine begins with, a configuration or a snapshot, and the agent's command.

    The snapshot is checked.
    """
    if options.restore is None:
        if options.trust_disk:
            raise ConfigurationError("--trust-disk: it is for a guest that is restored")
        if options.trust_share:
            raise ConfigurationError("--trust-share: it is for a guest that is restored")
        command = _take_command(options)
        return prepared_machine_config(options), command
    from vmm.snapshot import Snapshot

    _check_restore(options)
    if options.device:
        raise ConfigurationError("--restore: the machine is as it was saved; take --device away")
    loaded = Snapshot.load(
        options.restore, trust_disks=options.trust_disk, trust_shares=options.trust_share
    )
    snapshot = stack.enter_context(loaded)
    if options.init_arguments and snapshot.config.agent == "none":
        raise ConfigurationError(f"snapshot {options.restore}: no agent in it runs commands")
    return snapshot, options.init_arguments


def _take_command(options: Namespace) -> Sequence[str]:
    """Return the arguments if our agent runs them, as it does in the default guest, as its init.

    What is left in the options is for the guest's init.
    """
    words: list[str] = options.init_arguments
    ours = options.initrd is None and (options.kernel is None or is_stock(options.kernel))
    if words and options.agent is None and ours:
        options.agent = "init"
    if options.reload and options.agent is None and ours:
        options.agent = "beside"  # which has the guest look at its devices anew
    if not words or options.agent in (None, "none"):
        return ()
    options.init_arguments = []
    options.cmdline = f"{options.cmdline} {QUIET_AGENT}".lstrip()
    return _with_network(words, options) if options.net and options.agent == "init" else words


def _with_network(words: Sequence[str], options: Namespace) -> Sequence[str]:
    from vmm.cli.machine_options import nets
    from vmm.net.guest import with_network

    return with_network(words, nets(options))


def _console(
    start: MachineConfig | Snapshot, command: Sequence[str], options: Namespace, stack: ExitStack
) -> ConsoleOutput:
    config = start if isinstance(start, MachineConfig) else start.config
    place = options.console_to
    if place is None:
        place = default_place(with_command=bool(command), agent_is_init=config.agent == "init")
    return ConsoleOutput(place, stack, filtered=options.console_filter)


def _trace(options: Namespace, stack: ExitStack) -> RunTrace | None:
    live = getattr(options, "is_live", False) or getattr(options, "top_interval", 0)
    if options.trace is None and options.filter is None and not live:
        return None
    from vmm.cli.trace_options import run_trace

    return run_trace(options, stack)


def _explanation(options: Namespace, stack: ExitStack) -> Explanation | None:
    if not options.explain and not getattr(options, "checks_drivers", False):
        return None
    from vmm.cli.explanation import Explanation

    return Explanation(options, stack)


def _check_restore(options: Namespace) -> None:
    check_timeout(options)
    parser = QuickOptions()
    add_machine_arguments(parser)
    path, cid = split_vsock(options.vsock) if options.vsock else (None, 0)
    if cid:
        raise ConfigurationError(
            f"--vsock {options.vsock}: the CID is as it was saved; take it away"
        )
    defaults = vars(parser.parse([])) | {"timeout": options.timeout, "vsock": path}
    # What is behind its cards and its ports is of today.
    defaults |= {"net": options.net, "port": options.port}
    changed = [name for name, value in defaults.items() if getattr(options, name) != value]
    if changed:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise ConfigurationError(f"--restore: the machine is as it was saved; take {names} away")
