"""The taps: what stands in the way of a device, a vCPU and an agent while they are traced."""

from __future__ import annotations

import struct
from collections.abc import Callable
from threading import get_ident
from time import monotonic_ns
from typing import Any, Final

from transport.status import status_names
from vmm.kvm import vcpu as kvm
from vmm.trace import events
from vmm.trace.events import NO_QUEUE
from vmm.trace.recorder import QueueNotes, Recorder
from vmm.vcpu import Handler, VcpuThread

_IO: Final = struct.Struct("<BBHIQ")  # struct kvm_run at 0x20: see vmm/exits.py
_MMIO: Final = struct.Struct("<Q8sIB")
_PAYLOAD: Final = 0x20
_MMIO_DATA: Final = 0x28
_SHOWN_BYTES: Final = 8


class DeviceNotes:
    """Notes what a transport does; a ``DeviceTap``."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        self._recorder = recorder
        self._name = name

    def _note(self, kind: type[events.Event], *fields: Any, queue: int = NO_QUEUE) -> None:
        self._recorder.note(monotonic_ns(), kind, get_ident(), self._name, queue, *fields)

    def status(self, before: int, after: int) -> None:
        """The device status has a new bit."""
        self._note(events.Status, before, after, status_names(after))

    def features(self, offered: int, accepted: int, *, taken: bool) -> None:
        """The driver set FEATURES_OK."""
        self._note(events.Features, offered, accepted, taken)

    def reset(self) -> None:
        """The device is about to be reset."""
        self._note(events.Reset)

    def queue(self, index: int, size: int) -> None:
        """A queue was enabled or disabled."""
        self._note(events.QueueEnabled, size, queue=index)

    def kick(self, queue: int, count: int) -> None:
        """The device hears of notifications."""
        self._recorder.queue(self._name, queue).thread = thread = get_ident()
        self._recorder.note(monotonic_ns(), events.Kick, thread, self._name, queue, count)

    def unheard(self, queue: int, count: int) -> None:
        """Notifications were dropped."""
        what = "a notification" if count == 1 else f"{count} notifications"
        self._note(events.Dropped, f"{what} of a queue that is not served", queue=queue)

    def interrupt(self, queue: int, at: int) -> None:
        """The driver was told of used buffers."""
        self._recorder.note(at, events.Interrupt, get_ident(), self._name, queue)

    def message(self, vector: int, address: int, data: int) -> None:
        """A message of MSI-X is about to be sent."""
        self._note(events.Message, vector, address, data)

    def configuration(self) -> None:
        """The driver is about to be told that the configuration changed."""
        self._note(events.ConfigurationChange)

    def dropped(self, what: str) -> None:
        """The driver did something that had no effect."""
        self._note(events.Dropped, what)

    def failed(self, error: Exception) -> None:
        """The driver broke a rule, or the device failed."""
        # Not the error itself: its frames would keep the guest's memory.
        item = getattr(error, "item", "")
        message = str(error) if item else f"{type(error).__name__}: {error}"
        queue = getattr(error, "queue", None)
        self._note(events.Breach, item, message, queue=NO_QUEUE if queue is None else queue)

    def watcher(self, queue: int) -> QueueNotes:
        """Return who hears of the chains of a queue."""
        return self._recorder.queue(self._name, queue)


def watch_vcpu(recorder: Recorder, thread: VcpuThread) -> None:
    """Note the exits of a vCPU that come to Python, with the accesses that they are for."""
    area = thread.vcpu.run_area
    note = recorder.note

    def wrap(reason: int, handler: Handler) -> Handler:
        name = kvm.EXIT_NAMES.get(reason, str(reason))
        shown = {kvm.KVM_EXIT_IO: _port, kvm.KVM_EXIT_MMIO: _mmio}.get(reason)

        def serve() -> bool:
            begin = monotonic_ns()
            goes_on = handler()
            duration = monotonic_ns() - begin
            if shown is None:
                note(begin, events.Exit, get_ident(), "", NO_QUEUE, name, duration)
            else:
                note(
                    *(begin, events.Access, get_ident(), "", NO_QUEUE, name, duration),
                    *shown(area),
                )
            return goes_on

        return serve

    thread.watch(wrap)


Shown = tuple[int, int, int, bool]
"""Address, length, value, and whether it was written."""


def _port(area: memoryview) -> Shown:
    direction, size, port, count, start = _IO.unpack_from(area, _PAYLOAD)
    shown = min(size * count, _SHOWN_BYTES)
    value = int.from_bytes(area[start : start + shown], "little")
    return port, size * count, value, bool(direction)


def _mmio(area: memoryview) -> Shown:
    address, _, length, is_write = _MMIO.unpack_from(area, _PAYLOAD)
    value = int.from_bytes(area[_MMIO_DATA : _MMIO_DATA + min(length, _SHOWN_BYTES)], "little")
    return address, length, value, bool(is_write)


def agent_notes(recorder: Recorder) -> Callable[[str, int, str], None]:
    """Return what notes the requests to an agent, and that one is ready."""

    def on_step(step: str, number: int, what: str) -> None:
        now, thread = monotonic_ns(), get_ident()
        if step == "ready":
            recorder.note(now, events.Milestone, thread, "", NO_QUEUE, "the agent is ready")
        else:
            recorder.note(now, events.Command, thread, "", NO_QUEUE, number, step, what)

    return on_step
