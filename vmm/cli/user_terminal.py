"""The terminal of the user who runs a guest: raw, with keys for us, and of a size that matters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final, Self

from vmm.cli.interruption import Interruption
from vmm.cli.user_input import STANDARD_INPUT, user_input
from vmm.console.escape import HELP_TEXT, EscapeAction
from vmm.console.input import ConsoleInput
from vmm.console.raw_terminal import RawTerminal
from vmm.console.window import WindowWatch, window_size
from vmm.host.loop import EventLoop

NO_BUTTON: Final = "vmm: the guest listens to no power button; Ctrl-A x ends the machine\r\n"


class UserTerminal:
    """Standard input as a terminal in raw mode, inside a ``with`` block on the main thread.

    ``on_size(columns, rows)`` is called at the start, and on the loop's thread when the size may
    have changed: by a signal, or unseen while the foreground belonged to others.
    """

    def __init__(
        self,
        loop: EventLoop,
        interruption: Interruption,
        on_size: Callable[[int, int], object],
    ) -> None:
        self._loop = loop
        self._interruption = interruption
        self._on_size = on_size
        self._input: ConsoleInput | None = None
        self._watch = WindowWatch(loop, self._look)
        self._raw = RawTerminal(STANDARD_INPUT, self._watch.ring)
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            self._tell_size()
            resources.enter_context(self._watch)
            resources.enter_context(self._raw)
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._resources.close()

    def input(
        self, receive: Callable[[bytes], int], on_delivered: Callable[[], object] | None = None
    ) -> ConsoleInput:
        """Return what carries the keys to ``receive``, less those that are for us."""
        self._input = ConsoleInput(
            self._loop,
            user_input(),
            receive,
            self._act,
            self._gone,
            on_delivered=on_delivered,
            on_foreground=self._regained,
        )
        return self._input

    def _tell_size(self) -> None:
        if size := window_size(STANDARD_INPUT):
            self._on_size(*size)

    def _look(self) -> None:
        self._tell_size()
        if self._input is not None:
            self._input.look()

    def _regained(self) -> None:
        self._raw.make_raw()
        self._tell_size()

    def _gone(self) -> None:
        self._interruption("the terminal went away")

    def _act(self, action: EscapeAction) -> None:
        if action is EscapeAction.QUIT:
            self._interruption("ended by Ctrl-A x")
        elif action is EscapeAction.POWER_BUTTON:
            if not self._interruption.press_power_button():
                self._say(NO_BUTTON)
        elif action is EscapeAction.SUSPEND:
            self._raw.suspend()
        else:
            self._say(HELP_TEXT)

    def _say(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()
