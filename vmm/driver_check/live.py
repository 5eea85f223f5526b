"""The driver doctor of a machine: it follows the machine's trace, and watches for standstill."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from vmm.driver_check.diagnosis import Diagnosis
from vmm.driver_check.doctor import DriverDoctor
from vmm.driver_check.table import DutyTable
from vmm.host.threads import start_thread

if TYPE_CHECKING:
    from vmm.machine import Machine

QUIET_SECONDS: Final = 10.0
"""After so long without an access a driver that has begun with a device is taken to stand still."""

_LOOK_SECONDS: Final = 2.0


class MachineDoctor:
    """Judges the drivers of ``machine`` from now on, by a trace that it starts unless there is one.

    ``on_diagnosis`` hears of each mistake on a thread of the doctor's or the trace's. With
    ``watching`` it also looks, all the time, for drivers that stand still.
    """

    def __init__(
        self,
        machine: Machine,
        on_diagnosis: Callable[[Diagnosis], object] = bool,
        *,
        watching: bool = False,
    ) -> None:
        self._doctor = DriverDoctor(machine.hardware, on_diagnosis)
        self._tracer = machine.start_trace()
        self._tracer.on_events(self._doctor.feed)
        self._tracer.run()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if watching:
            self._thread = threading.Thread(target=self._watch, name="doctor", daemon=True)
            start_thread(self._thread)

    @property
    def diagnoses(self) -> list[Diagnosis]:
        """What was found until now."""
        self._tracer.flush()
        return list(self._doctor.diagnoses)

    def look_for_stalls(self) -> list[Diagnosis]:
        """Look also for what drivers left out that should have got further by now."""
        self._tracer.flush()
        self._doctor.finish(monotonic_ns(), stuck=True)
        return self.diagnoses

    def finish(self, *, stuck: bool) -> DutyTable:
        """Look for what was left out in a run that is over, and return the table of duties.

        ``stuck`` says that the guest did not end by itself.
        """
        self.close()
        self._tracer.flush()
        self._doctor.finish(monotonic_ns(), stuck=stuck)
        return DutyTable(self._doctor)

    def close(self) -> None:
        """Watch no more; harmless when repeated."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            now, quiet_ns = monotonic_ns(), int(QUIET_SECONDS * 1e9)
            if self._doctor.is_quiet(now, quiet_ns):
                self._tracer.flush()  # a trace that is busy may lag behind
                self._doctor.look_for_stalls(now, quiet_ns)
