"""A trace as it happens, on a stream: one line for each event."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vmm.host.patient_writer import PatientWriter
from vmm.trace.events import Event
from vmm.trace.filter import Filter
from vmm.trace.text import TextWriter
from vmm.trace.tracer import Tracer


class LiveTrace:
    """Writes the lines of a trace to ``fd``; a reader that is slow makes the trace lose records.

    ``on_gone`` is called, once, when nobody reads any more or the host cannot write. Once
    ``is_over()`` the reader is not waited for any longer.
    """

    def __init__(
        self,
        fd: int,
        wanted: Filter,
        on_gone: Callable[[OSError], object],
        is_over: Callable[[], object] = bool,
    ) -> None:
        self._out = PatientWriter(fd, is_over)
        self._wanted = wanted
        self._writer = TextWriter()
        self._on_gone: Callable[[OSError], object] | None = on_gone

    def begin(self, tracer: Tracer) -> None:
        """Write what ``tracer`` tells."""
        self._write(self._writer.header(again=False))
        tracer.on_events(self._feed)

    def close(self) -> None:
        """Write no more."""
        self._out.close()

    def _feed(self, events: Sequence[Event]) -> None:
        self._write(self._writer.feed(self._wanted.of(events)))

    def _write(self, data: bytes) -> None:
        if self._on_gone is None or not data:
            return
        try:
            self._out.write(data)
        except OSError as error:
            gone, self._on_gone = self._on_gone, None
            gone(error)
