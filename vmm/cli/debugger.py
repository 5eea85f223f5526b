"""``--gdb``: a debugger at the guest of a command."""

from __future__ import annotations

import sys
from contextlib import ExitStack

from vmm.gdb.place import DebugPlace, Listener
from vmm.host.name_remover import NameRemover
from vmm.machine import Machine


def listen(text: str, stack: ExitStack) -> Listener:
    """Listen where ``text`` says, until the stack ends; raises ``ConfigurationError``."""
    listener = stack.enter_context(Listener(DebugPlace.parse(text)))
    if path := listener.place.path:
        stack.enter_context(NameRemover(path))
    return listener


def let_in(listener: Listener, machine: Machine) -> None:
    """Let a debugger in at ``listener``, before the machine runs, and say how it gets there."""
    server = machine.debug(listener)
    waits = "; the guest waits for it" if server.waits else ""
    print(f"vmm: gdb: target remote {server.address}{waits}", file=sys.stderr, flush=True)
