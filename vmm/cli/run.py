"""``vmm run``: boot a guest, with this terminal as its console."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from virtio.engine import ENGINES, use
from virtio.errors import ConfigurationError
from vmm.cli.interruption import Interruption
from vmm.config import MachineConfig, parse_size
from vmm.console.output import OutputSink
from vmm.disk.disk import DiskConfig
from vmm.ending.ending import End, Ending
from vmm.image import Progress, ProgressLine, default_kernel, demo_disk
from vmm.machine import Machine

if TYPE_CHECKING:
    from vmm.console.escape import EscapeAction
    from vmm.snapshot import Snapshot

MAX_TIMEOUT_SECONDS: Final = 1e7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_machine_arguments(parser)
    parser.add_argument(
        "--restore",
        type=Path,
        metavar="FOLDER",
        help="go on from a saved guest instead of booting one; ARGUMENTs are a command for it",
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
    parser.add_argument("--stats", action="store_true", help="print counts at the end")
    parser.add_argument(
        "init_arguments", nargs="*", metavar="ARGUMENT", help="arguments for the guest's init"
    )


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what machine to build."""
    add = parser.add_argument
    add("--kernel", type=Path, metavar="FILE", help="vmlinux or bzImage (default: our own guest)")
    add("--initrd", type=Path, metavar="FILE", help="initial RAM disk")
    add("--cmdline", default="", metavar="STR", help="added to the kernel command line")
    add("--no-default-cmdline", action="store_true", help="take --cmdline as it is")
    add(
        "--boot", choices=("auto", "pvh", "linux64"), default="auto", help="how to enter the kernel"
    )
    add("--memory", default="128M", metavar="SIZE", help="guest RAM, such as 128M or 1G")
    add("--cpus", type=int, default=1, metavar="N", help="virtual processors")
    add(
        "--disk",
        action="append",
        default=[],
        metavar="FILE[,ro][,serial=S]",
        help="a raw image as a virtio block device; may be repeated. More options: volatile,"
        " block-size=N, queues=N; a comma in the name is doubled",
    )
    add(
        "--rng",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a virtio entropy device",
    )
    add(
        "--console",
        choices=("serial", "virtio"),
        default="serial",
        help="where the guest's console is: ttyS0 or hvc0",
    )
    add(
        "--agent",
        choices=("none", "init", "beside"),
        default="none",
        help="have our agent in the guest, as its first process or beside that",
    )
    add(
        "--io-threads",
        choices=("shared", "disks", "devices"),
        default="disks",
        help="what is served by a thread of its own",
    )
    add(
        "--poll",
        type=int,
        metavar="MICROSECONDS",
        help="how long such a thread waits on the processor before it sleeps (default: 50, or 0"
        " on one processor)",
    )
    add("--timeout", type=float, metavar="SECONDS", help="end a guest that has not ended by then")


def machine_config(options: argparse.Namespace, progress: Progress) -> MachineConfig:
    """Turn the options of :func:`add_machine_arguments` into a configuration.

    The default guest gets its demonstration disk when no other disk is given.
    """
    if options.timeout is not None and not 0 < options.timeout <= MAX_TIMEOUT_SECONDS:
        raise ConfigurationError(
            f"--timeout {options.timeout:g}: must be above 0 and at most"
            f" {MAX_TIMEOUT_SECONDS:g} seconds"
        )
    config = MachineConfig(
        kernel=options.kernel,
        initrd=options.initrd,
        cmdline=options.cmdline,
        default_cmdline=not options.no_default_cmdline,
        init_arguments=tuple(options.init_arguments),
        boot=options.boot,
        memory_bytes=parse_size(options.memory),
        cpus=options.cpus,
        disks=tuple(DiskConfig.parse(text) for text in options.disk),
        rng=options.rng,
        console=options.console,
        agent=options.agent,
        io_threads=options.io_threads,
    )
    if options.poll is not None:
        config = replace(config, poll_us=options.poll)
    if config.kernel is None and not config.disks:
        config = replace(config, disks=(DiskConfig(str(demo_disk(progress)), volatile=True),))
    return config


def execute(options: argparse.Namespace) -> int:
    """Run the guest, again after each reboot if asked for, and return the exit status."""
    if options.engine is not None:
        use(options.engine)
    interruption = Interruption()
    with ExitStack() as stack:
        start = _start_of(options, stack)
        stack.enter_context(interruption.by_signals())
        while True:
            ending = _run_once(start, options, interruption)
            if ending.end is not End.REBOOT or options.on_reboot == "exit":
                return ending.status


def _start_of(options: argparse.Namespace, stack: ExitStack) -> MachineConfig | Snapshot:
    """Return what the machine begins with: a configuration, or a snapshot, which is checked."""
    with closing(ProgressLine(sys.stderr)) as progress:
        if options.restore is None:
            config = machine_config(options, progress)
            if config.kernel is None:
                default_kernel(progress, cpus=config.cpus)
            return config
    from vmm.snapshot import Snapshot

    _check_restore(options)
    snapshot = stack.enter_context(Snapshot.load(options.restore))
    if options.init_arguments and snapshot.config.agent == "none":
        raise ConfigurationError(f"snapshot {options.restore}: no agent in it runs commands")
    return snapshot


def _check_restore(options: argparse.Namespace) -> None:
    parser = argparse.ArgumentParser()
    add_machine_arguments(parser)
    defaults = vars(parser.parse_args([])) | {"timeout": options.timeout}
    changed = [name for name, value in defaults.items() if getattr(options, name) != value]
    if changed:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise ConfigurationError(f"--restore: the machine is as it was saved; take {names} away")


def _run_once(
    start: MachineConfig | Snapshot, options: argparse.Namespace, interruption: Interruption
) -> Ending:
    with ExitStack() as stack:
        restored = not isinstance(start, MachineConfig)
        command = options.init_arguments if restored else ()
        interactive = sys.stdin.isatty() and not command
        made = Machine(start) if isinstance(start, MachineConfig) else Machine.restore(start)
        machine = stack.enter_context(made)
        interruption.watch(machine)
        sink = stack.enter_context(OutputSink(1, on_gone=partial(_output_gone, interruption)))
        machine.console.add_sink(sink.write)
        if interactive:
            from vmm.console.raw_terminal import RawTerminal

            stack.enter_context(RawTerminal(0))
            print("vmm: Ctrl-A x ends the machine, Ctrl-A h shows more keys", file=sys.stderr)
        if restored:
            machine.resume()
        else:
            machine.boot()
        if command:
            _run_command(machine, command, sink, options.timeout)
        else:
            _connect_input(machine, interruption, sink if interactive else None)
        ending = machine.wait(options.timeout)
    report(ending, machine if options.stats else None)
    return ending


def _run_command(
    machine: Machine, command: Sequence[str], sink: OutputSink, timeout: float | None
) -> None:
    """Have the agent run a command, and the guest end with its status."""
    from vmm.agent import AgentLostError, CommandTimeoutError, GuestFileNotFoundError

    try:
        process = machine.agent.start(command, timeout=timeout)
        for output in process:
            if output.stream == "stdout":
                sink.write(output.data)
            else:
                sys.stderr.buffer.write(output.data)
                sys.stderr.buffer.flush()
        status = process.wait()
        machine.agent.report(status if status >= 0 else 128 - status)
    except GuestFileNotFoundError as error:
        print(f"vmm: {error}", file=sys.stderr)
        machine.agent.report(127)
    except AgentLostError:
        pass  # the machine has ended, and says why
    except CommandTimeoutError:
        machine.end(End.TIMEOUT)


def _connect_input(
    machine: Machine, interruption: Interruption, terminal: OutputSink | None
) -> None:
    from vmm.console.escape import HELP_TEXT, EscapeAction
    from vmm.console.input import ConsoleInput

    def act(action: EscapeAction) -> None:
        if action is EscapeAction.QUIT:
            interruption("ended by Ctrl-A x")
        elif terminal is not None:
            terminal.write(HELP_TEXT.encode())

    def gone() -> None:
        interruption("the terminal went away")

    console = machine.console
    on_action, on_end = (act, gone) if terminal is not None else (None, None)
    source = ConsoleInput(machine.loop, 0, console.receive, on_action, on_end)
    console.on_space = source.on_space
    source.start()


def _output_gone(interruption: Interruption, error: OSError) -> None:
    interruption(f"nobody reads the console output any more: {error.strerror}")


def report(ending: Ending, counted: Machine | None) -> None:
    """Print on stderr how the guest ended, and the statistics of ``counted``."""
    lines = [f"vmm: {ending.message}", *(f"vmm:   {line}" for line in ending.report)]
    if counted is not None:
        lines += [f"vmm: {line}" for line in counted.statistics.lines()]
    with suppress(OSError):  # the terminal went away with the guest's output: the status tells
        print("\n".join(lines), file=sys.stderr)
