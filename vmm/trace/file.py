"""A trace in a file: ``.txt``, ``.json`` or ``.pftrace``, opened before the machine is confined."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from virtio.errors import ConfigurationError
from vmm.console.text import printable
from vmm.host.files import write_all
from vmm.host.patient_writer import PatientWriter
from vmm.trace.chrome import END, ChromeWriter
from vmm.trace.events import Event
from vmm.trace.filter import Filter
from vmm.trace.perfetto import PerfettoWriter
from vmm.trace.text import TextWriter

if TYPE_CHECKING:
    from vmm.trace.tracer import Tracer


class Writer(Protocol):
    """Turns events into bytes of a file, whole records at a time."""

    def header(self, *, again: bool) -> bytes:
        """Return what comes first; ``again`` in a file that another run has written to."""

    def feed(self, events: Sequence[Event]) -> bytes:
        """Return the records of some events."""

    def end(self) -> bytes:
        """Return what comes last."""


WRITERS: Final[dict[str, Callable[[], Writer]]] = {
    ".txt": TextWriter,
    ".json": ChromeWriter,
    ".pftrace": PerfettoWriter,
}


class TraceFile:
    """A file for the traces of a run, one after the other if the guest is restarted.

    A file that takes no more gets no more, and keeps the whole records that it has: one line on
    stderr says so, and the guest goes on. Raises :class:`ConfigurationError` for a name whose
    ending tells no format, and for a file that cannot be made.
    """

    def __init__(self, path: Path, wanted: Filter) -> None:
        self._path = path
        self._wanted = wanted
        if path.suffix not in WRITERS:
            known = ", ".join(WRITERS)
            raise ConfigurationError(f"--trace {path}: the name must end in one of {known}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY
        try:
            self._fd = os.open(path, flags, 0o666)
        except OSError as error:
            raise ConfigurationError(f"--trace {path}: {error.strerror}") from None
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def begin(self, tracer: Tracer, is_over: Callable[[], object] = bool) -> Callable[[], None]:
        """Write what ``tracer`` tells, and return what writes the end.

        Once ``is_over()`` the reader of a pipe is not waited for any longer.
        """
        writer = WRITERS[self._path.suffix]()
        alive = True
        pipe = None if self._is_file else PatientWriter(self._fd, is_over)

        def write(data: bytes) -> None:
            nonlocal alive
            if alive and data:
                alive = self._write(data, pipe)

        def end() -> None:
            write(writer.end())
            if pipe is not None:
                pipe.close()

        write(writer.header(again=self._reopen()))
        tracer.on_events(lambda events: write(writer.feed(self._wanted.of(events))))
        return end

    def _reopen(self) -> bool:
        """Go back behind the last record of an earlier run; returns whether there was one."""
        if not self._is_file or not (place := os.lseek(self._fd, 0, os.SEEK_CUR)):
            return False
        if self._path.suffix != ".json":
            return True
        os.lseek(self._fd, place - len(END), os.SEEK_SET)
        if place > len(END) + 1:
            return True
        os.lseek(self._fd, 0, os.SEEK_SET)  # that run left no record
        return False

    def _write(self, data: bytes, pipe: PatientWriter | None) -> bool:
        good = os.lseek(self._fd, 0, os.SEEK_CUR) if self._is_file else 0
        try:
            if pipe is None:
                write_all(self._fd, data)
            else:
                pipe.write(data)
        except OSError as error:
            with suppress(OSError):
                if self._is_file:
                    os.ftruncate(self._fd, good)
                    os.lseek(self._fd, good, os.SEEK_SET)
                    if self._path.suffix == ".json":
                        write_all(self._fd, END)
            line = (
                f"vmm: trace {self._path}: {error.strerror}; no more is written, the guest goes on"
            )
            with suppress(OSError):
                print(printable(line, 8192), file=sys.stderr)
            return False
        return True
