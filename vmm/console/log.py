"""The log of a guest's console: the last output, for those who wait for it or watch it."""

import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from virtio.errors import Error
from virtio.log import Logger
from vmm.console.lines import LONGEST_LINE_BYTES, cut_lines, lines_of, lines_with
from vmm.console.text import printable
from vmm.host.clock import deadline_in

HISTORY_BYTES = 64 * 1024
LINES_IN_ERRORS = 20

# A guest prints byte by byte: this lets a burst gather, instead of a search after each byte.
_SEARCH_INTERVAL_SECONDS = 0.005

_log = Logger(__name__)

_Item = TypeVar("_Item")

Sink = Callable[[bytes], object]
LineWatcher = Callable[[str], object]
Pattern = str | bytes | re.Pattern[str] | re.Pattern[bytes]


class ConsoleTimeoutError(Error, TimeoutError):
    """The text did not appear in time; the message ends with the last lines."""


class ConsoleClosedError(Error, EOFError):
    """The guest ended before the text appeared; the message ends with how, and the last lines."""


class ConsoleLog:
    """Keeps the last ``history_bytes`` of the guest's output; every method is thread-safe.

    >>> console = ConsoleLog()
    >>> console.write(b"booting\\r\\nlogin: ")
    >>> console.wait_for("login: ", timeout=1)
    'login: '
    >>> console.last_lines()
    ['booting', 'login: ']

    Sinks and line watchers are called on the thread that writes (a vCPU's), without any lock, and
    must not block. One that raises is logged and not called again: an observer of the console must
    not stop the machine.
    """

    def __init__(self, history_bytes: int = HISTORY_BYTES) -> None:
        self._limit = history_bytes
        self._changed = threading.Condition()
        self._history = bytearray()
        self._dropped_bytes = 0
        self._searched = 0
        self._line = bytearray()
        self._awaited = False
        self._closed: str | None = None
        self._sinks: tuple[Sink, ...] = ()
        self._watchers: tuple[tuple[LineWatcher, tuple[bytes, ...]], ...] = ()

    def add_sink(self, sink: Sink) -> None:
        """Call ``sink`` with all output from now on, as it comes."""
        with self._changed:
            self._sinks = (*self._sinks, sink)

    def on_line(self, watcher: LineWatcher, containing: Sequence[bytes] = ()) -> None:
        """Call ``watcher`` with every line that is completed from now on, without its ending.

        With ``containing`` only with lines that hold one of these words, and of each write with at
        most the last LINES_PER_WORD for each: the rest of the output is searched as bytes, at next
        to no cost. Lines longer than LONGEST_LINE_BYTES come in pieces. Bytes that are not UTF-8
        are replaced.
        """
        with self._changed:
            self._watchers = (*self._watchers, (watcher, tuple(containing)))

    def write(self, data: bytes) -> None:
        """Take output of the guest."""
        with self._changed:
            self._history += data
            if len(self._history) > 2 * self._limit:
                self._trim()
            complete = self._complete_lines(data) if self._watchers else b""
            if self._awaited:
                self._awaited = False
                self._changed.notify_all()
        for sink in self._sinks:
            self._pass_on(sink, data)
        if complete:
            for watcher, words in self._watchers:
                for line in lines_with(complete, words) if words else lines_of(complete):
                    self._pass_on(watcher, _text(line.rstrip(b"\r")))

    def close(self, reason: str = "the machine ended") -> None:
        """End the output: everybody who waits gets an error with ``reason``."""
        with self._changed:
            self._closed = self._closed or reason
            self._changed.notify_all()

    def history(self) -> bytes:
        """Return the last output, at most ``history_bytes`` bytes."""
        with self._changed:
            return bytes(self._history[-self._limit :])

    @property
    def position(self) -> int:
        """How many bytes the guest has printed; for :meth:`since`."""
        with self._changed:
            return self._dropped_bytes + len(self._history)

    def since(self, position: int) -> bytes:
        """Return the output from a position on, as far as it is kept."""
        with self._changed:
            begin = max(position - self._dropped_bytes, len(self._history) - self._limit, 0)
            return bytes(self._history[begin:])

    def last_lines(self, count: int = LINES_IN_ERRORS) -> list[str]:
        """Return the last ``count`` lines, an unfinished one included, to be shown to a person.

        Control characters are escaped and long lines cut; :meth:`history` has what was printed.
        """
        lines = self.history().splitlines()[-count:] if count else []
        return [printable(_text(line)) for line in lines]

    def told(self) -> str:
        """Return the end of an error: the last lines, escaped, or that there are none."""
        lines = self.last_lines()
        if not lines:
            return "; the guest printed nothing"
        return "\n    ".join(["; the last lines were:", *lines])

    def wait_for(self, pattern: Pattern, timeout: float) -> str:
        """Wait until the output holds ``pattern`` and return the text that matched.

        A ``str`` or ``bytes`` stands for itself, a compiled pattern is searched. Each search starts
        where the last successful one ended, so that a caller can follow a conversation step by
        step; the first one starts with the history. Raises ConsoleTimeoutError after ``timeout``
        seconds, and ConsoleClosedError when the guest ends without a match.
        """
        expression = _compile(pattern)
        started, deadline = time.monotonic(), deadline_in(timeout)
        while True:
            output, position, closed = self._unsearched()
            # Searched without the lock, which a vCPU may be waiting for.
            if match := expression.search(output):
                with self._changed:
                    self._searched = max(self._searched, position + match.end())
                return _text(match.group())
            if closed is not None:
                waited = time.monotonic() - started
                raise ConsoleClosedError(
                    f"console: {_show(pattern)} not seen: {closed}"
                    f" (waited {waited:.1f} s of {timeout:g} s){self.told()}"
                )
            if not self._wait_for_more(position + len(output), deadline):
                raise ConsoleTimeoutError(
                    f"console: {_show(pattern)} not seen within {timeout:g} s{self.told()}"
                )

    def _unsearched(self) -> tuple[bytes, int, str | None]:
        with self._changed:
            start = max(self._searched - self._dropped_bytes, len(self._history) - self._limit, 0)
            return bytes(self._history[start:]), self._dropped_bytes + start, self._closed

    def _wait_for_more(self, seen: int, deadline: float) -> bool:
        """Wait for output after position ``seen``; False when the deadline has passed."""
        with self._changed:
            while self._dropped_bytes + len(self._history) == seen and self._closed is None:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self._awaited = True
                self._changed.wait(remaining)
            self._changed.wait_for(lambda: self._closed is not None, _SEARCH_INTERVAL_SECONDS)
        return True

    def _trim(self) -> None:
        excess = len(self._history) - self._limit
        del self._history[:excess]
        self._dropped_bytes += excess

    def _complete_lines(self, data: bytes) -> bytes:
        if b"\n" not in data and len(self._line) + len(data) < LONGEST_LINE_BYTES:
            self._line += data
            return b""
        complete, rest = cut_lines(bytes(self._line) + data)
        self._line = bytearray(rest)
        return complete

    def _pass_on(self, listener: Callable[[_Item], object], item: _Item) -> None:
        try:
            listener(item)
        except Exception:
            _log.exception("console: %r failed and gets no more output", listener)
            with self._changed:
                self._sinks = tuple(sink for sink in self._sinks if sink is not listener)
                self._watchers = tuple(one for one in self._watchers if one[0] is not listener)


def _compile(pattern: Pattern) -> re.Pattern[bytes]:
    if isinstance(pattern, str):
        return re.compile(re.escape(pattern.encode()))
    if isinstance(pattern, bytes):
        return re.compile(re.escape(pattern))
    if isinstance(pattern.pattern, bytes):
        return re.compile(pattern.pattern, pattern.flags)
    return re.compile(pattern.pattern.encode(), pattern.flags & ~re.UNICODE)


def _show(pattern: Pattern) -> str:
    return repr(pattern.pattern if isinstance(pattern, re.Pattern) else pattern)


def _text(data: bytes | bytearray) -> str:
    return data.decode(errors="replace")
