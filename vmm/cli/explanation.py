"""What a run tells of the guest's drivers: ``--explain``, and the table of ``vmm check-driver``."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from vmm.cli.console_output import NO_READER
from vmm.console.text import printable
from vmm.driver_check.duties import load_duties
from vmm.driver_check.live import MachineDoctor
from vmm.ending.ending import STATUS_HOST, End
from vmm.host.files import write_all

if TYPE_CHECKING:
    from argparse import Namespace

    from vmm.driver_check.diagnosis import Diagnosis
    from vmm.driver_check.table import DutyTable
    from vmm.ending.ending import Ending
    from vmm.machine import Machine

LATE: Final = ("virtio.virtqueue.watched", "vmm.trace.tracer")
"""Modules that a machine with a doctor imports when it is confined already."""

MOST_TOLD: Final = 20
STATUS_BROKEN: Final = 1


class Explanation:
    """The doctor of a run: tells mistakes on stderr as they are made, or a table at the end.

    Reads and opens now what a confined process cannot any more.
    """

    def __init__(self, options: Namespace, stack: ExitStack) -> None:
        load_duties()
        self._checks = bool(getattr(options, "checks_drivers", False))
        self._as_json = bool(getattr(options, "json", False))
        self._debugged = options.gdb is not None
        self._told = 0
        self._failed = False
        self._table: DutyTable | None = None
        if self._checks:
            sys.stdout.flush()
            self._output = os.dup(1)
            stack.callback(os.close, self._output)
            # What the guest and its command print must not stand in the midst of the table.
            os.dup2(2, 1)
            stack.callback(os.dup2, self._output, 1)

    @property
    def late(self) -> list[str]:
        """The modules that are needed when no file can be opened any more."""
        from virtio import engine

        return [*LATE, *(["virtio.native.records"] if engine.native() is not None else [])]

    def begin(self, machine: Machine, stack: ExitStack) -> None:
        """Judge the drivers of a machine, which has not run yet, up to the end of the run."""
        self._told = 0
        stack.callback(machine.stop_trace)
        tell = bool if self._checks else self._tell
        # A guest that a debugger holds stands still for no fault of its own.
        doctor = MachineDoctor(machine, tell, watching=not self._debugged)
        stack.callback(self._finish, machine, doctor)

    def _finish(self, machine: Machine, doctor: MachineDoctor) -> None:
        ending = machine.ending
        stuck = ending is not None and (
            not ending.expected or ending.end in (End.INTERRUPTED, End.STOPPED)
        )
        self._table = doctor.finish(stuck=stuck)
        if self._checks:
            lines = map(printable, self._table.lines())
            # JSON is ASCII, and none any more when a long line of it is cut.
            text = self._table.to_json() if self._as_json else "\n".join(lines)
            self._write(f"{text}\n")
        elif not self._table.diagnoses:
            self._say(["driver check: the guest's drivers broke no rule that was looked at"])

    def _write(self, text: str) -> None:
        try:
            write_all(self._output, text.encode())
        except OSError as error:
            if error.errno in NO_READER:
                return  # the status tells
            self._failed = True
            self._say([f"the table of duties: standard output: {error.strerror}"])

    def status(self, ending: Ending) -> int:
        """Return the exit status of the command."""
        if not self._checks:
            return ending.status
        if self._failed:
            return STATUS_HOST
        if self._table is not None and self._table.broken:
            return STATUS_BROKEN
        return 0 if ending.end in (End.POWER_OFF, End.REPORTED, End.REBOOT) else ending.status

    def _tell(self, diagnosis: Diagnosis) -> None:
        self._told += 1
        if self._told <= MOST_TOLD:
            first, *rest = diagnosis.lines
            self._say([f"driver check: {first}", *(f"  {line}" for line in rest)])
        elif self._told == MOST_TOLD + 1:
            self._say([f"driver check: {MOST_TOLD} mistakes were told; vmm check-driver tells all"])

    @staticmethod
    def _say(lines: list[str]) -> None:
        with suppress(OSError, ValueError):
            text = "".join(f"vmm: {printable(line)}\n" for line in lines)
            print(text, end="", file=sys.stderr, flush=True)
