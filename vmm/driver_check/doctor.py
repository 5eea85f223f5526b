"""The driver doctor: follows the events of a trace, and tells what the drivers do wrong.

It keeps a case for each device. Breaches are told when they are seen; :meth:`DriverDoctor.finish`
looks for what a driver did not do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from transport.core import VirtioTransport
from vmm.driver_check import access, configuration, queues, rings, stalls, steps
from vmm.driver_check.case import Case, Tally
from vmm.driver_check.diagnosis import Diagnosis
from vmm.driver_check.duties import load_duties
from vmm.trace import events

MOST_DIAGNOSES: Final = 1000
SELECTORS: Final = {"QueueSel", "DeviceFeaturesSel", "DriverFeaturesSel"}


class Devices(Protocol):
    """Who knows the devices that there are now, as :class:`vmm.hardware.Hardware` does."""

    @property
    def transports(self) -> Sequence[VirtioTransport]:
        """The devices on their transports."""


class DriverDoctor:
    """Judges the drivers of ``devices`` by the events that :meth:`feed` is given.

    ``diagnoses`` is what was found until now, each mistake once for each device and queue;
    ``on_diagnosis`` hears of each when it is found. Give it the events of a trace in their order,
    from any thread.
    """

    def __init__(
        self, devices: Devices, on_diagnosis: Callable[[Diagnosis], object] = bool
    ) -> None:
        load_duties()  # reads a file, and a confined machine opens none
        self.diagnoses: list[Diagnosis] = []
        self._devices = devices
        self._on_diagnosis = on_diagnosis
        self._cases: dict[str, Case] = {}
        self._past: dict[str, Tally] = {}
        self._lock = threading.Lock()
        self._look()

    @property
    def cases(self) -> list[Case]:
        """The devices that there are."""
        return list(self._cases.values())

    @property
    def tallies(self) -> list[Tally]:
        """How often each duty was kept and broken, at the devices that there are and were."""
        return [*self._past.values(), *(case.tally for case in self._cases.values())]

    def feed(self, found: Iterable[events.Event]) -> None:
        """Judge events."""
        with self._lock:
            self._look()
            for event in found:
                judge = _JUDGES.get(type(event))
                if judge is None:
                    continue
                if (case := self._cases.get(event.device)) is not None:
                    case.last = event.at
                    judge(case, event)
                elif isinstance(event, events.Lost):
                    for each in self._cases.values():
                        rings.lost(each)
            for case in self._cases.values():
                if case.suspects:
                    rings.judge_suspects(case)
                case.batch += 1
            self._forget_the_gone()

    def finish(self, now: int, *, stuck: bool) -> None:
        """Look for what the drivers left out.

        ``stuck`` says that the guest should have got further: it did not end by itself.
        """
        with self._lock:
            self._look()
            for case in self._cases.values():
                case.last = now
                rings.judge_suspects(case, last=True)
                stalls.examine(case, stuck=stuck)

    def is_quiet(self, now: int, quiet_ns: int) -> bool:
        """Whether some driver, which has begun with its device, did nothing for ``quiet_ns``."""
        with self._lock:
            cases = self._cases.values()
            return any(case.last and now - case.last >= quiet_ns for case in cases)

    def look_for_stalls(self, now: int, quiet_ns: int) -> None:
        """Look for drivers that began with a device and did nothing at it for ``quiet_ns``."""
        with self._lock:
            for case in self._cases.values():
                if case.last and now - case.last >= quiet_ns:
                    stalls.examine_quiet(case)

    def _look(self) -> None:
        for one in self._devices.transports:
            case = self._cases.get(one.name)
            if case is None or case.transport is not one:
                self._close(case)
                self._cases[one.name] = Case(one, self._found)

    def _forget_the_gone(self) -> None:
        """Let go of devices that were taken out, once what came before is judged."""
        there = set(self._devices.transports)
        for case in list(self._cases.values()):
            if case.transport not in there:
                self._close(case)
                del self._cases[case.name]

    def _close(self, case: Case | None) -> None:
        if case is not None:
            self._past.setdefault(case.name, Tally(case.name)).add(case.tally)

    def _found(self, diagnosis: Diagnosis) -> None:
        if len(self.diagnoses) < MOST_DIAGNOSES:
            self.diagnoses.append(diagnosis)
            self._on_diagnosis(diagnosis)


def _access(case: Case, event: events.Access) -> None:
    register = event.register
    if register.startswith(("pci ", "msix ")):
        case.space_read |= not event.is_write
        if register == "pci Command" and event.is_write:
            case.command = event.value
        return
    name = access.common_name(case, register)
    queues.stopping(case, name, register, is_write=event.is_write)
    if not access.is_proper(case, event):
        return
    if register.startswith(("config.", "config+")):
        configuration.accessed(case, event)
    elif register.startswith("notify "):
        if event.is_write:
            rings.notified(case, int(register.split()[1]))
    elif register in queues.VECTORS:
        queues.vector_accessed(case, register, event.value, is_write=event.is_write)
    elif event.is_write:
        _write(case, name, register, event.value)
    else:
        _read(case, name, event.value)


def _write(case: Case, name: str, register: str, value: int) -> None:
    if name in SELECTORS:
        case.life.selected[name] = value
    elif name == "Status":
        steps.status_written(case, value)
    elif name == "DriverFeatures":
        steps.features_written(case, value)
    elif name in queues.OF_A_QUEUE:
        queues.queue_written(case, name, register, value)
    elif name == "QueueNotify":
        rings.notified(case, value)
    elif name == "InterruptACK":
        rings.acknowledged(case, value)


def _read(case: Case, name: str, value: int) -> None:
    life = case.life
    life.read.add(name)
    if name in steps.IDENTITY:
        case.identified.add(name)
    elif name == "Status":
        life.status_read = True
        life.reset_seen |= value == 0
        if case.kind == "pci":
            case.keeps("DRV-PCI-03")
    elif name == "DeviceFeatures":
        steps.word_selected(case, name)
    elif name in queues.OF_A_QUEUE:
        queues.queue_read(case, name, value)


def _status(case: Case, event: events.Status) -> None:
    case.status = event.after


def _reset(case: Case, event: events.Reset) -> None:
    case.status = 0
    case.life.queues.clear()


def _interrupted(case: Case, event: events.Event) -> None:
    case.life.interrupts += 1


_JUDGES: Final[dict[type[events.Event], Callable[[Case, Any], object]]] = {
    events.Access: _access,
    events.Status: _status,
    events.Features: steps.features_settled,
    events.Reset: _reset,
    events.QueueEnabled: queues.queue_enabled,
    events.Kick: rings.kick,
    events.Taken: rings.taken,
    events.Completed: rings.completed,
    events.Interrupt: _interrupted,
    events.ConfigurationChange: _interrupted,
    events.Dropped: rings.dropped,
    events.Breach: rings.breach,
    events.Lost: lambda *_: None,
}
