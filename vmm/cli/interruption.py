"""The user's wish to end a run: from a signal, a key, or a reader of the output who went away."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from vmm.ending.ending import End
from vmm.machine import Machine

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Ends the machine that runs, and every later one, so that no wish is lost between two.

    ``message`` says why, once there is a wish. Any thread may call the object.
    """

    def __init__(self) -> None:
        self.message = ""
        self._machine: Machine | None = None

    def __call__(self, message: str) -> None:
        self.message = self.message or message
        if self._machine is not None:
            self._machine.end(End.INTERRUPTED, self.message)

    def watch(self, machine: Machine) -> None:
        """End ``machine`` from now on, at once if there is a wish already."""
        self._machine = machine
        if self.message:
            self(self.message)

    @contextmanager
    def by_signals(self) -> Iterator[None]:
        """Take SIGINT, SIGTERM and SIGHUP as the wish, inside this block."""

        def note(number: int, frame: Any) -> None:
            self(f"interrupted by {signal.Signals(number).name}")

        # A signal that nohup(1) or a shell without job control made us ignore stays ignored.
        heeded = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, note) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
