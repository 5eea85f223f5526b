"""The trace of a run: ``--trace`` and ``--filter``, and the lines of ``vmm trace``."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from virtio.errors import ConfigurationError
from vmm.ending.ending import End
from vmm.trace.file import TraceFile
from vmm.trace.filter import Filter
from vmm.trace.live import LiveTrace
from vmm.trace.tracer import Tracer

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from vmm.cli.interruption import Interruption
    from vmm.machine import Machine

LATE: Final = ("virtio.virtqueue.watched", "vmm.trace.tracer", "vmm.trace.top", "vmm.trace.screen")
"""Modules that a traced machine imports when it is confined already."""


class RunTrace:
    """What a run writes of its trace: to the file that it opens now, or to the standard output.

    Raises :class:`ConfigurationError` for a file that cannot be made and a filter that is none.
    """

    def __init__(self, options: Namespace, stack: ExitStack) -> None:
        self._wanted = Filter(options.filter or "")
        self._live = bool(getattr(options, "is_live", False))
        self._interval = float(getattr(options, "top_interval", 0))
        self._end_at = None if options.timeout is None else time.monotonic() + options.timeout
        if self._interval and self._wanted.text and options.trace is None:
            raise ConfigurationError("--filter: it is for a trace; add --trace FILE")
        self._file: TraceFile | None = None
        if options.trace is not None:
            self._file = TraceFile(Path(options.trace), self._wanted)
            stack.callback(self._file.close)

    def check(self, machine: Machine) -> None:
        """Raise :class:`ConfigurationError` for a filter that fits nothing of this machine."""
        devices = [one.name for one in machine.hardware.transports]
        if self._wanted.text:
            self._wanted.check(
                [*devices, *(name for _, _, name in machine.hardware.ports.ranges())]
            )

    @property
    def late(self) -> list[str]:
        """The modules that are needed when no file can be opened any more."""
        from virtio import engine

        return [*LATE, *(["virtio.native.records"] if engine.native() is not None else [])]

    def begin(self, machine: Machine, interruption: Interruption, stack: ExitStack) -> None:
        """Trace the machine, which has not run yet, up to the end of the run."""
        tracer = machine.start_trace()

        def is_over() -> bool:
            late = self._end_at is not None and time.monotonic() >= self._end_at
            return late or bool(interruption.message)

        if self._file is not None:
            stack.callback(self._file.begin(tracer, is_over))
        if self._live:
            sys.stdout.flush()
            live = LiveTrace(1, self._wanted, _gone(machine, interruption), is_over)
            stack.callback(live.close)
            live.begin(tracer)
        if self._interval:
            self._begin_top(machine, tracer, interruption, stack)
        stack.callback(machine.stop_trace)
        tracer.run()

    def _begin_top(
        self, machine: Machine, tracer: Tracer, interruption: Interruption, stack: ExitStack
    ) -> None:
        from vmm.trace.screen import TopScreen
        from vmm.trace.top import Top

        sys.stdout.flush()
        gone = _gone(machine, interruption)
        screen = TopScreen(Top(machine), tracer, 1, self._interval, gone)
        stack.callback(screen.close)
        screen.start()


def _gone(machine: Machine, interruption: Interruption) -> Callable[[OSError], None]:
    from vmm.cli.console_output import NO_READER

    def gone(error: OSError) -> None:
        if error.errno in NO_READER:
            interruption(f"nobody reads the trace any more: {error.strerror}")
        elif isinstance(error, TimeoutError):
            with suppress(OSError):
                print("vmm: trace: nobody reads it; the rest is dropped", file=sys.stderr)
        else:
            machine.end(End.HOST_FAILED, f"trace: standard output: {error.strerror}")

    return gone


def run_trace(options: Namespace, stack: ExitStack) -> RunTrace | None:
    """Return the trace that the options ask for, if they do."""
    live = getattr(options, "is_live", False) or getattr(options, "top_interval", 0)
    if options.trace is None and not live:
        if options.filter is not None:
            raise ConfigurationError("--filter: it is for a trace; add --trace FILE")
        return None
    return RunTrace(options, stack)
