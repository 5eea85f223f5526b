"""A trace as text: one line for each event, in words, which reads as a story."""

from __future__ import annotations

from collections.abc import Sequence

from vmm.console.text import printable
from vmm.trace.events import Access, Event, Milestone


class TextWriter:
    """Turns events into lines: seconds since the first, thread, place, kind, and the rest."""

    def __init__(self) -> None:
        self._start: int | None = None

    def header(self, *, again: bool) -> bytes:
        """Return what stands above the first event; ``again`` is for another run."""
        title = f"{'seconds':>12}  {'thread':<11} {'device/queue':<12} {'event':<10} details\n"
        return (("\n" if again else "") + title).encode()

    def feed(self, events: Sequence[Event]) -> bytes:
        """Return the lines of some events."""
        return "".join(f"{self.line(one)}\n" for one in events).encode()

    def line(self, event: Event) -> str:
        """Return the line of an event, without its end."""
        if self._start is None:
            self._start = event.at
        seconds = (event.at - self._start) / 1e9
        kind = event.kind
        if isinstance(event, Access):
            kind = "writes" if event.is_write else "reads"
        details = event.details
        if isinstance(event, Milestone):
            details = f"--- {details} ---"
        line = f"{seconds:12.6f}  {event.thread:<11} {event.place:<12} {kind:<10} {details}"
        return printable(line.rstrip())

    def end(self) -> bytes:
        """Return what stands below the last event."""
        return b""
