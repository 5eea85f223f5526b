"""Writes at the pace of a pipe's or terminal's reader, until a run that is over gives it up."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from vmm.host.files import write_all
from vmm.host.resource import Resource
from vmm.host.threads import start_thread

LAST_SECONDS: Final = 2.0
"""How long a reader has for each write once the run is over."""

_LOOK_SECONDS: Final = 0.1


class PatientWriter(Resource):
    """Writes to what ``fd`` is open for.

    A write may block for as long as the reader likes, also where poll(2) calls the descriptor
    writable, so a thread of this object blocks, which nobody has to wait for.
    """

    def __init__(self, fd: int, is_over: Callable[[], object]) -> None:
        # A copy: a write that was given up must meet no other file of that number.
        self._fd = os.dup(fd)
        self._is_over = is_over
        self._changed = threading.Condition()
        self._data = b""
        self._error: OSError | None = None
        self._closed = False
        # A daemon: a reader that never comes back must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="patient-writer", daemon=True)
        start_thread(self._thread)

    def write(self, data: bytes) -> None:
        """Write all of ``data``; waits for its reader.

        Raises :class:`OSError` when that fails, and :class:`TimeoutError` when the run is over and
        the reader does not come; then at every later call, too.
        """
        end: float | None = None
        with self._changed:
            if self._error is None:
                self._data = data
                self._changed.notify_all()
            while self._data and self._error is None:
                self._changed.wait(_LOOK_SECONDS)
                if end is None and self._is_over():
                    end = time.monotonic() + LAST_SECONDS
                if end is not None and time.monotonic() >= end and self._data:
                    self._error = TimeoutError(errno.ETIMEDOUT, "nobody reads it")
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """End the thread, which closes the descriptor; one that is in a write does so later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            writing = bool(self._data)
        if not writing:
            self._thread.join()

    def _run(self) -> None:
        while data := self._next():
            error = None
            try:
                write_all(self._fd, data)
            except OSError as raised:
                error = raised
            with self._changed:
                self._data = b""
                self._error = self._error or error
                self._changed.notify_all()
        os.close(self._fd)

    def _next(self) -> bytes:
        """Wait for data; none when this was closed, or nobody writes any more."""
        with self._changed:
            while not self._data and not self._closed:
                self._changed.wait()
            return b"" if self._closed or self._error else self._data
