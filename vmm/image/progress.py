"""Shows the progress of a long image build, to a person at a terminal or in a log.

The builders call a ``Progress``; the command line passes in the one here, which writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

Progress = Callable[[str, str], None]
"""Called as ``progress(stage, detail)``: the step, and how far it has come (may be empty)."""

_SPARSE_SECONDS = 30.0


def silent(stage: str, detail: str) -> None:
    """Report nothing."""


class TextStream(Protocol):
    """Where text can be shown."""

    def isatty(self) -> bool: ...
    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


class ProgressLine:
    """A ``Progress`` that keeps one line up to date, or writes a line now and then.

    On a terminal the line is rewritten in place and removed by ``close``; elsewhere there is one
    line for each stage and one every 30 seconds. ``clock`` returns seconds.
    """

    def __init__(self, stream: TextStream, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._in_place = stream.isatty()
        self._started = clock()
        self._stage = ""
        self._last_written = 0.0

    def __call__(self, stage: str, detail: str) -> None:
        elapsed = self._clock() - self._started
        text = f"{stage}: {detail}, {elapsed:.0f} s" if detail else f"{stage} ({elapsed:.0f} s)"
        if self._in_place:
            self._stream.write(f"\r{text}\x1b[K")
        elif stage != self._stage or elapsed - self._last_written >= _SPARSE_SECONDS:
            self._stream.write(text + "\n")
            self._last_written = elapsed
        self._stage = stage
        self._stream.flush()

    def close(self) -> None:
        """Remove the line from the terminal."""
        if self._in_place and self._stage:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
        self._stage = ""
