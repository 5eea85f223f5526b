"""``vmm shell``: run a guest, with a prompt of Python's beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtio.errors import ConfigurationError
from vmm.cli import run
from vmm.kernel_choice import is_stock
from vmm.sandbox.mode import usual_mode

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command: those of ``vmm run``."""
    run.add_arguments(parser)


def execute(options: Namespace) -> int:
    """Run the guest and the prompt, and return the exit status.

    That is 1 when lines were read from a file or a pipe and one of them raised. Without
    ``--console-to`` the console is kept for ``%console``; the default guest has our agent.
    """
    from vmm.shell.prompt import check_ipython

    check_ipython()
    _check(options)
    from vmm.shell.session import MachineShell

    ours = options.initrd is None and (options.kernel is None or is_stock(options.kernel))
    if ours and options.agent is None and options.restore is None:
        options.agent = "init"
    options.sandbox = "off"
    options.console_to = options.console_to or "none"
    options.shell = shell = MachineShell(watching=options.reload)
    options.reload = False
    status = run.execute(options)
    return status or int(shell.failed)


def _check(options: Namespace) -> None:
    """Raise :class:`ConfigurationError` for options that a prompt leaves no room for."""
    if options.init_arguments:
        raise ConfigurationError("shell: runs no command; at its prompt is guest.run([...])")
    if options.jail or (options.sandbox or usual_mode("off")) != "off":
        raise ConfigurationError(
            "shell: what is typed may open any file: it needs --sandbox=off, and no --jail"
        )
    if options.on_reboot != "exit":
        raise ConfigurationError("shell: has one machine; take --on-reboot away")
    if options.reload and not options.device:
        raise ConfigurationError("--reload: it is for --device, which is not given")
