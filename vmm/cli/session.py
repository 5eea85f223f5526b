"""One run of a guest with this terminal as its console, or with a command as its purpose."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

from virtio.errors import ConfigurationError
from vmm.cli.interruption import Interruption
from vmm.cli.report import report
from vmm.cli.user_input import user_input
from vmm.config import MachineConfig
from vmm.ending.deadline import deadline
from vmm.ending.ending import STATUS_HOST, End, Ending
from vmm.machine import Machine
from vmm.sandbox.host import CUT_OFF, explain_bus_errors

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from vmm.cli.caller import Caller
    from vmm.cli.command import GuestCommand
    from vmm.cli.console_output import ConsoleOutput
    from vmm.cli.explanation import Explanation
    from vmm.cli.guest_sockets import GuestSockets
    from vmm.cli.port_files import PortFiles
    from vmm.cli.trace_options import RunTrace
    from vmm.cli.user_terminal import UserTerminal
    from vmm.gdb.place import Listener
    from vmm.sandbox.process import ProcessSandbox
    from vmm.shell.session import MachineShell
    from vmm.snapshot import Snapshot

# A machine whose agent has gone ends soon if its end is why; slow ones write their disks before.
_LAST_SECONDS: Final = 60.0
DEBUGGER_SOCKETS: Final = 2
"""That of a debugger, and that of a second one, which is sent away."""

_NO_AGENT: Final = "the guest powered off before its agent could take the command"


def run_once(
    start: MachineConfig | Snapshot,
    command: Sequence[str],
    console: ConsoleOutput,
    options: Namespace,
    interruption: Interruption,
    end_at: float | None,
    sandbox: ProcessSandbox,
    *,
    trace: RunTrace | None = None,
    explanation: Explanation | None = None,
    listener: Listener | None = None,
) -> Ending:
    """Boot or restore a guest, serve it until it ends, and print how it did.

    The process enters its ``sandbox`` when all is open, before it has threads. ``command`` is for
    the guest's agent. At ``end_at`` on the monotonic clock the guest ends in any case, whatever
    waits for it then. A command that came to its own end needs no words of ours. At ``listener`` a
    debugger is let in.
    """
    with ExitStack() as stack:
        sockets = _guest_sockets(options, stack, sandbox) if options.vsock else None
        restored = not isinstance(start, MachineConfig)
        if shares := (start if isinstance(start, MachineConfig) else start.config).shares:
            from vmm.share.limits import raise_limit

            raise_limit(len(shares))
        made = Machine(start) if isinstance(start, MachineConfig) else _restore(start, options)
        machine = stack.enter_context(made)
        if trace is not None:
            trace.check(machine)
        # Our init hears no power button.
        theirs = restored or not machine.config.has_our_init
        interruption.watch(machine, ask=theirs and not command)
        if restored:
            explain_bus_errors(CUT_OFF, STATUS_HOST)
        else:
            machine.load()
        machine.hardware.kvm.close()
        caller = _caller(machine.config) if command else None
        ports = _port_files(options, stack) if options.port else None
        if sockets is not None:
            sockets.connect(machine, stack)
        if listener is not None:
            from vmm.cli.debugger import let_in

            let_in(listener, machine)
        files = None
        shell: MachineShell | None = getattr(options, "shell", None)
        if shell is not None:
            shell.watch(machine, stack)
        elif options.reload:
            from vmm.cli.reload_option import watch_files

            files = watch_files(machine, stack)
        sandbox.enter(
            [
                *_late(options, with_command=bool(command)),
                *(trace.late if trace is not None else []),
                *(explanation.late if explanation is not None else []),
            ],
            sockets=(0 if sockets is None else sockets.most)
            + machine.hardware.disk_sockets
            + DEBUGGER_SOCKETS * bool(listener),
            folders=machine.hardware.folders,
            debugger=listener is not None,
        )
        if end_at is not None:
            message = f"{End.TIMEOUT.value} of {options.timeout:g} s"
            out_of_time = partial(machine.end, End.TIMEOUT, message)
            stack.enter_context(deadline(end_at - time.monotonic(), out_of_time))
        # All that a run needs is opened and imported before the guest runs.
        ours = _command(machine, command, options, caller) if command else None
        terminal = None
        if shell is None:
            terminal = _terminal(machine, ours, options, interruption, stack)
        console.connect(machine, interruption, stack)
        if ports is not None:
            ports.connect(machine.hardware.console_ports, stack)
        if trace is not None:
            trace.begin(machine, interruption, stack)
        if explanation is not None:
            explanation.begin(machine, stack)
        machine.resume()
        if files is not None:
            files.start()
        if shell is not None:
            ending = shell.serve()
        elif ours is not None:
            ending = _end_of_command(machine, ours, terminal)
        else:
            _connect_input(machine, terminal)
            ending = machine.wait()
    told_by_status = ours is not None and ending.end is End.REPORTED and ours.status is not None
    if not told_by_status or options.stats:
        report(ending, machine if options.stats else None)
    return ending


def _restore(snapshot: Snapshot, options: Namespace) -> Machine:
    if not options.net:
        return Machine.restore(snapshot)
    from vmm.cli.machine_options import nets

    return Machine.restore(snapshot, nets=nets(options))


def _late(options: Namespace, *, with_command: bool) -> list[str]:
    """Return the modules that are imported in the sandbox, and look at what it hides."""
    user_input()
    on_terminal = sys.stdin.isatty()
    if on_terminal:
        from vmm.console.foreground import may_stop

        may_stop()
    return [
        *("vmm.console.input", "vmm.console.filter"),
        *(["vmm.cli.user_terminal"] if on_terminal else []),
        *(["vmm.cli.command"] if with_command else []),
        *(["ctypes"] if getattr(options, "device", ()) else []),  # to end code that makes no end
        *(["vmm.stats"] if options.stats or options.gdb else []),
        *(["vmm.dump.core_file", "vmm.dump.dump"] if options.gdb else []),
    ]


def _caller(config: MachineConfig) -> Caller | None:
    """Return what a command gets of the caller, in a guest with a root of the host's."""
    if not config.shares or not config.shares[0].is_root:
        return None
    from vmm.cli.caller import Caller

    return Caller.in_root(config.shares[0])


def _command(
    machine: Machine, words: Sequence[str], options: Namespace, caller: Caller | None
) -> GuestCommand:
    from vmm.cli.command import GuestCommand

    on_terminal = options.tty and sys.stdin.isatty() and sys.stdout.isatty()
    return GuestCommand(machine, words, terminal=on_terminal, caller=caller)


def _terminal(
    machine: Machine,
    command: GuestCommand | None,
    options: Namespace,
    interruption: Interruption,
    stack: ExitStack,
) -> UserTerminal | None:
    """Take over the user's terminal for the guest, if there is one that it gets."""
    if not (sys.stdin.isatty() if command is None else command.has_terminal):
        return None
    from vmm.cli.user_terminal import UserTerminal

    on_size = machine.resize_console if command is None else command.resize
    terminal = stack.enter_context(UserTerminal(machine.loop, interruption, on_size))
    if command is None:
        print("vmm: Ctrl-A x ends the machine, Ctrl-A h shows more keys", file=sys.stderr)
    return terminal


def _end_of_command(
    machine: Machine, command: GuestCommand, terminal: UserTerminal | None
) -> Ending:
    """Run a command by the agent, end the guest with its status, and return how that ended."""
    from vmm.agent import AgentLostError, GuestOSError

    status = None
    try:
        status = command.run(terminal)
        machine.agent.report(status)
    except AgentLostError:
        if status is None:
            machine.wait(_LAST_SECONDS)
    except GuestOSError:  # a kernel that lets nobody use the port
        machine.end(End.STOPPED)
    ending = machine.wait()
    if not command.was_started and ending.end is End.POWER_OFF:
        raise ConfigurationError("; ".join([_NO_AGENT, *machine.untouched()]))
    if command.failure:
        return Ending(End.HOST_FAILED, command.failure)
    if status is not None and ending.end is End.STOPPED:
        return Ending(End.REPORTED, f"the command ended with status {status}", reported=status)
    return ending


def _port_files(options: Namespace, stack: ExitStack) -> PortFiles:
    from vmm.cli.machine_options import split_port
    from vmm.cli.port_files import PortFiles

    return PortFiles(dict(map(split_port, options.port)), stack)


def _guest_sockets(options: Namespace, stack: ExitStack, sandbox: ProcessSandbox) -> GuestSockets:
    from vmm.cli.guest_sockets import GuestSockets
    from vmm.cli.machine_options import split_vsock

    confined = sandbox.mode != "off" or sandbox.jail is not None
    return GuestSockets(split_vsock(options.vsock)[0], stack, confined=confined)


def _connect_input(machine: Machine, terminal: UserTerminal | None) -> None:
    from vmm.console.input import ConsoleInput

    console = machine.console
    if terminal is not None:
        source = terminal.input(console.receive)
    else:
        source = ConsoleInput(machine.loop, user_input(), console.receive)
    console.on_space = source.on_space
    source.start()
