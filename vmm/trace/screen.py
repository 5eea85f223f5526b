"""A view that is drawn again and again: in place on a terminal, one below the other elsewhere."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from vmm.host.files import write_all
from vmm.host.threads import start_thread

if TYPE_CHECKING:
    from vmm.trace.top import Top
    from vmm.trace.tracer import Tracer

_HOME_AND_CLEAR: Final = b"\x1b[H\x1b[J"
_LAST_SECONDS: Final = 2.0
_ALTERNATE, _NORMAL = b"\x1b[?1049h\x1b[?25l", b"\x1b[?25h\x1b[?1049l"


class TopScreen:
    """Draws views of ``top`` on ``fd`` every ``seconds``, on a thread of its own.

    On a terminal it takes a screen of its own, and gives it back at :meth:`close`, which leaves the
    last view behind. ``on_gone`` is called, once, when nobody reads any more.
    """

    def __init__(
        self,
        top: Top,
        tracer: Tracer,
        fd: int,
        seconds: float,
        on_gone: Callable[[OSError], object],
    ) -> None:
        self._top = top
        self._tracer = tracer
        self._fd = fd
        self._seconds = seconds
        self._on_gone: Callable[[OSError], object] | None = on_gone
        self._terminal = os.isatty(fd)
        self._last: list[str] = []
        self._ended = threading.Event()
        # A daemon: a reader that never reads must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="top", daemon=True)

    def start(self) -> None:
        """Draw from now on."""
        self._tracer.on_events(self._top.feed)
        start_thread(self._thread)

    def close(self) -> None:
        """Draw the last view, which stays, and give the terminal back; the machine has ended."""
        self._ended.set()
        self._thread.join(_LAST_SECONDS)

    def _run(self) -> None:
        if self._terminal:
            self._write(_ALTERNATE)
        while not self._ended.wait(self._seconds) and self._on_gone is not None:
            lines = self._top.view()
            shown = _fitting(lines, self._fd) if self._terminal else [*lines, ""]
            self._write((_HOME_AND_CLEAR if self._terminal else b"") + _lines(shown))
        self._write((_NORMAL if self._terminal else b"") + _lines(self._top.view()))

    def _write(self, data: bytes) -> None:
        if self._on_gone is None:
            return
        try:
            write_all(self._fd, data)
        except OSError as error:
            gone, self._on_gone = self._on_gone, None
            gone(error)


def _lines(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode()


def _fitting(lines: Sequence[str], fd: int) -> list[str]:
    """Return what has room on a terminal: a line that wraps would push the first ones out."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        columns = rows = 0
    return [line[: columns or 80] for line in lines[: (rows or 24) - 1]]
