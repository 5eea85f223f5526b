"""Stops a machine where the code of one of its devices failed, until that is mended.

The device is suspended under its work lock by its transport, at the moment of the failure. The rest
of the machine is stopped a moment later and by another thread: a processor that waits for that work
lock could not come out of the guest before the handler has returned.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from virtio.errors import Error
from virtio.frames import clear_frames
from virtio.named_tuple import NamedTuple
from vmm.host.threads import start_thread

if TYPE_CHECKING:
    from transport.core import VirtioTransport
    from vmm.machine import Machine

RETURN_SECONDS: Final = 5.0
"""How long a handler of another device has to return; it is left to itself then."""

_ADVICE: Final = "mend it and %reload, or give it up and %continue"


class DeviceFailedError(Error):
    """The machine stands still, as the code of a device failed: nobody can be waited for."""


class DeviceFailure(NamedTuple):
    """What the code of a device raised, and how the device was then."""

    name: str
    error: Exception
    situation: str


class Standstill:
    """Stops ``machine`` at each failure of a device's code, and then calls ``on_stop`` with it.

    That call comes on a thread of its own. While the machine stands still no processor is in the
    guest and no other device is served, and calls of the guest's agent raise
    :class:`DeviceFailedError`. ``failures`` are those since the machine ran last, by device.
    """

    def __init__(self, machine: Machine, on_stop: Callable[[DeviceFailure], object]) -> None:
        self._machine = machine
        self._on_stop = on_stop
        self._lock = threading.RLock()
        self._paused: list[VirtioTransport] = []
        self._threads: list[threading.Thread] = []
        self.stopped = False
        self.failures: dict[str, DeviceFailure] = {}
        machine.hardware.keep_failed(self._hear)

    def close(self) -> None:
        """Stop the machine no more, and drop what the failures hold of it; it has ended."""
        self._machine.hardware.keep_failed(None)
        for thread in self._threads:
            thread.join()
        self._forget()

    def go_on(self) -> None:
        """Let the machine run again; harmless for one that does.

        A device that is suspended still stays so.
        """
        with self._lock:
            if not self.stopped:
                return
            self.stopped = False
            self._forget()
            if (agent := self._machine.agent_if_any) is not None:
                agent.interrupt(None)
            for transport in self._paused:
                transport.pause(paused=False)
            self._paused = []
            self._machine.resume()

    def give_up(self) -> None:
        """Let the machine run again; devices that nobody mended need a reset by their drivers."""
        with self._lock:
            for transport in self._machine.hardware.transports:
                failure = self.failures.get(transport.name)
                if failure is not None and transport.suspended:
                    transport.give_up(failure.error)
            self._machine.hardware.keep_failed(self._hear)
            self.go_on()

    def _hear(self, transport: VirtioTransport, error: Exception) -> bool:
        failure = DeviceFailure(transport.name, error, transport.situation())
        thread = threading.Thread(target=self._stop, args=[failure], name="standstill", daemon=True)
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        start_thread(thread)
        return True

    def _stop(self, failure: DeviceFailure) -> None:
        with self._lock:
            self.failures[failure.name] = failure
            if not self.stopped:
                self.stopped = True
                self._machine.pause()
                others = [one for one in self._machine.hardware.transports if not one.paused]
                others = [one for one in others if one.returns(RETURN_SECONDS)]
                for transport in others:
                    transport.pause(paused=True)
                self._paused = others
            try:
                self._on_stop(failure)
            finally:
                self._interrupt(failure)

    def _interrupt(self, failure: DeviceFailure) -> None:
        if (agent := self._machine.agent_if_any) is not None:
            what = f"{failure.name} failed ({failure.error!r}) and the machine stands still"
            agent.interrupt(DeviceFailedError(f"{what}: {_ADVICE}"))

    def _forget(self) -> None:
        for failure in self.failures.values():
            clear_frames(failure.error.__traceback__)
        self.failures = {}
