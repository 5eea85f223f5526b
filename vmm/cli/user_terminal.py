"""The terminal of the user who runs a guest: raw, with keys for us, and of a size that matters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Self

from vmm.cli.interruption import Interruption
from vmm.console.escape import HELP_TEXT, EscapeAction
from vmm.console.raw_terminal import RawTerminal
from vmm.console.window import window_changes, window_size
from vmm.host.loop import EventLoop

_FD = 0


class UserTerminal:
    """Standard input as a terminal in raw mode, inside a ``with`` block on the main thread.

    ``on_size(columns, rows)`` is called at the start, and on the loop's thread when it changes.
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
        self._raw = RawTerminal(_FD)
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            if size := window_size(_FD):
                self._on_size(*size)
            resources.enter_context(window_changes(_FD, self._loop, self._on_size))
            resources.enter_context(self._raw)
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._resources.close()

    def callbacks(self) -> dict[str, Callable[..., object]]:
        """Return what :class:`~vmm.console.input.ConsoleInput` is to call of ours, by its names."""
        return {
            "on_action": self._act,
            "on_end": self._gone,
            "on_foreground": self._raw.make_raw,
        }

    def _act(self, action: EscapeAction) -> None:
        if action is EscapeAction.QUIT:
            self._interruption("ended by Ctrl-A x")
        elif action is EscapeAction.SUSPEND:
            self._raw.suspend()
        else:
            with suppress(OSError):
                sys.stderr.write(HELP_TEXT)
                sys.stderr.flush()

    def _gone(self) -> None:
        self._interruption("the terminal went away")
