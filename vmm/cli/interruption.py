"""The user's wish to end a run: from a signal, a key, or a reader of the output who went away."""

import signal
import sys
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, Final

from vmm.cli.heeded import heeding
from vmm.ending.ending import End
from vmm.machine import Machine

GRACE_SECONDS: Final = 10.0
"""How long a guest that was asked to switch itself off has for that."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Ends the machine that runs, and every later one, so that no wish is lost between two.

    ``message`` says why, once there is a wish. Any thread may call the object.
    """

    def __init__(self) -> None:
        self.message = ""
        self._machine: Machine | None = None
        self._may_ask = False
        self._asked = ""

    def __call__(self, message: str) -> None:
        self.message = self.message or message
        if self._machine is not None:
            self._machine.end(End.INTERRUPTED, self.message)

    def watch(self, machine: Machine, *, ask: bool = False) -> None:
        """End ``machine`` from now on, at once if there is a wish already.

        ``ask`` says that :meth:`ask` may press the guest's power button first.
        """
        self._machine, self._may_ask = machine, ask
        if message := self.message or self._asked:
            self(message)

    def ask(self, message: str) -> None:
        """Have the guest switch itself off if it listens to its power button, else end it.

        Who asks again, or has waited for GRACE_SECONDS, ends it in any case.
        """
        machine = self._machine
        if machine is None or not self._may_ask or self._asked:
            self(message)
            return
        self._asked = message
        # On the loop, as no lock may be taken where a signal handler calls.
        machine.loop.call_soon_threadsafe(partial(self._press, machine, message))

    def press_power_button(self) -> bool:
        """Press the button of the machine that runs; False when its guest does not listen."""
        return self._machine is not None and self._machine.press_power_button()

    def _press(self, machine: Machine, message: str) -> None:
        if not machine.press_power_button():
            self(message)
            return
        late = f"{message}; the guest did not switch itself off within {GRACE_SECONDS:g} s"
        machine.loop.call_later(GRACE_SECONDS, partial(self, late))
        with suppress(OSError, ValueError):
            print(f"vmm: {message}: pressed the guest's power button", file=sys.stderr)

    def by_signals(self) -> AbstractContextManager[object]:
        """Take SIGINT, SIGTERM and SIGHUP as the wish, inside this block; SIGTERM asks first."""

        def note(number: int, frame: Any) -> None:
            wish = self.ask if number == signal.SIGTERM else self
            wish(f"interrupted by {signal.Signals(number).name}")

        return heeding(_SIGNALS, note)
