"""Traces a machine: sets the taps, reads what they note, and hands the events on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from virtio.log import Logger
from vmm.host.threads import start_thread
from vmm.trace import events
from vmm.trace.decoder import Decoder
from vmm.trace.events import NO_QUEUE, Event
from vmm.trace.recorder import Recorder
from vmm.trace.taps import DeviceNotes, agent_notes, watch_vcpu

if TYPE_CHECKING:
    from transport.core import VirtioTransport
    from vmm.machine import Machine
    from vmm.trace.query import LiveTrace

OnEvents = Callable[[list[Event]], object]

_INTERVAL_SECONDS: Final = 0.02
_REST: Final = 4.0
"""For how many times as long as it decoded the reader lets the others have the interpreter."""

_KERNEL_LINES: Final = {
    b"Linux version": "the kernel speaks",
    b"Freeing unused kernel": "the kernel frees its own initialization",
    b"Run /init": "the kernel starts the first process",
}
_log = Logger(__name__)


class Tracer:
    """Traces ``machine`` from :meth:`start` to :meth:`close`.

    Events go to those who subscribed by :meth:`on_events` and :meth:`on_event`, in the order of
    time, on a thread of the trace. Whoever raises is logged, and gets no more. Only the events of
    about the last 20 ms are held back: one that comes later than that is out of order.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._decoder = Decoder(machine.hardware)
        self._recorder = Recorder(self._decoder)
        self._subscribers: list[OnEvents] = []
        self._handing = threading.RLock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._ending_told = False
        self._trace: LiveTrace | None = None

    @property
    def trace(self) -> LiveTrace:
        """The events since this was first asked for, to ask questions of."""
        if self._trace is None:
            from vmm.trace.query import LiveTrace

            self._trace = LiveTrace(self)
            if not self._ended.is_set():
                self.run()  # lest what is noted be lost between two questions
        return self._trace

    def on_events(self, subscriber: OnEvents) -> None:
        """Call ``subscriber`` with each list of events from now on."""
        with self._handing:
            self._subscribers.append(subscriber)

    def on_event(self, subscriber: Callable[[Event], object]) -> None:
        """Call ``subscriber`` with each event from now on."""

        def each(found: Iterable[Event]) -> None:
            for one in found:
                subscriber(one)

        self.on_events(each)

    # Taps

    def start(self) -> None:
        """Set the taps, also on what is plugged later."""
        self._import_what_is_late()
        hardware = self._machine.hardware
        with hardware.changing:
            for transport in hardware.transports:
                self._watch(transport)
            hardware.on_fitted = self._watch
        self.watch_vcpus()
        if (agent := self._machine.agent_if_any) is not None:
            agent.watch(agent_notes(self._recorder))
        self._machine.console.on_line(self._kernel_line, containing=tuple(_KERNEL_LINES))

    @staticmethod
    def _import_what_is_late() -> None:
        """Import what a queue needs that a driver enables on a thread that opens no files."""
        import virtio.virtqueue.watched
        from virtio import engine

        if engine.native() is not None:
            import virtio.native.records  # noqa: F401

    def watch_vcpus(self) -> None:
        """Set the taps of the vCPUs that there are now."""
        for thread in self._machine.threads:
            watch_vcpu(self._recorder, thread)

    def run(self) -> None:
        """Hand events on as they come, on a thread of its own; harmless when repeated."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._pump, name="trace", daemon=True)
        start_thread(self._thread)

    def milestone(self, what: str) -> None:
        """Note that the guest came to a point on its way."""
        now = time.monotonic_ns()
        self._recorder.note(now, events.Milestone, threading.get_ident(), "", NO_QUEUE, what)

    def saved(self, begin: int, duration: int) -> None:
        """Note that the machine was saved."""
        ident = threading.get_ident()
        self._recorder.note(begin, events.Snapshot, ident, "", NO_QUEUE, duration)

    def close(self) -> None:
        """Take the taps away, and hand on what is left; harmless when repeated."""
        hardware = self._machine.hardware
        with hardware.changing:
            hardware.on_fitted = bool
            for transport in hardware.transports:
                transport.watch(None)
        for thread in self._machine.threads:
            thread.watch(None)
        if (agent := self._machine.agent_if_any) is not None:
            agent.watch(lambda *_: None)
        self._ended.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        ending = self._machine.ending
        if ending is not None and not self._ending_told:
            self._ending_told = True
            self.milestone(ending.message)
        self.flush()
        self._recorder.close()

    # Reading

    def flush(self) -> None:
        """Hand on all events until now."""
        self._hand_on(last=True)

    def _hand_on(self, *, last: bool) -> None:
        with self._handing:
            self._decoder.look()
            found = self._recorder.read(last=last)
            if not found:
                return
            for subscriber in tuple(self._subscribers):
                try:
                    subscriber(found)
                except Exception as error:
                    self._subscribers.remove(subscriber)
                    _log.error("trace: %r failed, and gets no more", error, traceback_of=error)

    def _pump(self) -> None:
        rest = 0.0
        while not self._ended.wait(_INTERVAL_SECONDS):
            rest -= _INTERVAL_SECONDS
            if rest > 0:
                self._recorder.collect()
                continue
            begin = time.thread_time()
            self._hand_on(last=False)
            rest = (time.thread_time() - begin) * _REST

    def _watch(self, transport: VirtioTransport) -> None:
        transport.watch(DeviceNotes(self._recorder, transport.name))

    def _kernel_line(self, line: str) -> None:
        for sign, what in _KERNEL_LINES.items():
            if sign.decode() in line:
                self.milestone(what)
