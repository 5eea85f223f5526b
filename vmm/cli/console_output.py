"""Where the output of a guest's console goes: ``--console-to``."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from virtio.errors import ConfigurationError
from vmm.cli.interruption import Interruption
from vmm.console.output import OutputSink
from vmm.ending.ending import End

if TYPE_CHECKING:
    from vmm.machine import Machine

_STANDARD: Final = {"stdout": 1, "stderr": 2, "none": None}
NO_READER: Final = (errno.EPIPE, errno.ECONNRESET, errno.EIO)  # a terminal that hung up has EIO


def default_place(*, with_command: bool, agent_is_init: bool) -> str:
    """Return where the console goes when nobody says.

    Beside a command it is no output of ours. Where the agent is the first process, nothing but the
    kernel and the command itself speaks there, which is worth reading; elsewhere an init of the
    guest's does, and a shell with its prompt.
    """
    if not with_command:
        return "stdout"
    return "stderr" if agent_is_init else "none"


class ConsoleOutput:
    """The place of the console's output: ``stdout``, ``stderr``, ``none`` or a file, opened now.

    On stderr, where messages of ours stand, and if ``filtered`` it is text and colours only. A
    reader who goes away ends the run as interrupted, and a file that takes no more as one that the
    host failed.
    """

    def __init__(self, place: str, stack: ExitStack, *, filtered: bool) -> None:
        self._place = place
        self._filtered = filtered or place == "stderr"
        self._fd = _STANDARD[place] if place in _STANDARD else _created(place, stack)

    def connect(self, machine: Machine, interruption: Interruption, stack: ExitStack) -> None:
        """Send the output of a machine there."""
        if self._fd is None:
            return

        def on_gone(error: OSError) -> None:
            if error.errno in NO_READER:
                interruption(f"nobody reads the console output any more: {error.strerror}")
            else:
                machine.end(End.HOST_FAILED, f"console output: {self._place}: {error.strerror}")

        heeded = None if self._place == "stderr" else on_gone
        sink = stack.enter_context(OutputSink(self._fd, self._place, on_gone=heeded))
        machine.console.add_sink(_filtered(sink, stack) if self._filtered else sink.write)


def _created(name: str, stack: ExitStack) -> int:
    try:
        fd = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY, 0o666
        )
    except OSError as error:
        raise ConfigurationError(f"--console-to {name}: {error.strerror}") from error
    stack.callback(os.close, fd)
    return fd


def _filtered(sink: OutputSink, stack: ExitStack) -> Callable[[bytes], object]:
    """Return what takes output for ``sink`` and lets text and colours through, until the end."""
    from vmm.console.filter import ConsoleFilter

    console_filter = ConsoleFilter()
    stack.callback(lambda: sink.write(console_filter.end()))
    return lambda data: sink.write(console_filter.feed(data))
