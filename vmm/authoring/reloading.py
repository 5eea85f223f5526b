"""Puts what a device's file has now into the place of the device that it made before.

Two ways lead there. Where the guest has our agent its driver lets the old device go and finds the
new one, with whatever features and configuration that has: Linux probes it anew. Where nobody can
ask the guest, and where the old device failed and still has the chain at which it did, the new one
goes on in the middle of the driver's work: it must then have the same type, features and queues.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from virtio.errors import ConfigurationError, Error, InternalError
from virtio.log import Logger
from vmm.authoring.carrying import State, carried, misfit, state_of
from vmm.authoring.device_file import DeviceFile
from vmm.authoring.loading import LoadedClass, describe, load_class
from vmm.authoring.time_limit import within
from vmm.config import DeviceConfig
from vmm.host.threads import start_thread

if TYPE_CHECKING:
    from transport.core import VirtioTransport
    from transport.state import TransportState
    from virtio.device.lifecycle import VirtioDevice
    from vmm.machine import Machine

ASK_SECONDS: Final = 20.0
"""How long the guest has to let a device go, and as long again to take the new one."""

LOOK_SECONDS: Final = 0.01
LOAD_SECONDS: Final = 5.0
"""How long a file has to be executed, and its class to make a device."""

RETURN_SECONDS: Final = 5.0
"""How long a handler of the old device has to return."""

_log = Logger(__name__)


class Reloader:
    """Reloads the devices of ``machine`` that come from files; ``say`` gets a line about each.

    Make it before the guest runs: the state that a device has then tells later what happened to it.
    ``may_ask`` says, for a device by its name, whether the guest can be asked now; it usually can.
    """

    def __init__(self, machine: Machine, say: Callable[[str], object]) -> None:
        self._machine = machine
        self._say = say
        self._lock = threading.Lock()
        self.may_ask: Callable[[str], bool] = bool
        self._at_first: dict[str, State] = {}
        for name in self.devices():
            self._note_state(name, self._transport(name).device)

    def devices(self) -> dict[str, DeviceFile]:
        """Return the files of the devices that come from some, by the names of the devices."""
        found = {}
        for name, maker in self._machine.hardware.makers.items():
            make = maker.make if isinstance(maker, DeviceConfig) else maker
            if isinstance(make, DeviceFile):
                found[name] = make
        return found

    def file_of(self, name: str) -> DeviceFile:
        """Return the file of a device; raises :class:`ConfigurationError` for one without."""
        devices = self.devices()
        if name not in devices:
            known = ", ".join(devices) or "none"
            raise ConfigurationError(f"{name}: is no device of a file; there are: {known}")
        return devices[name]

    def files(self) -> dict[str, tuple[Path, ...]]:
        """Return the files that each of these devices is made of."""
        return {
            name: (one.path,) if one.loaded is None else one.loaded.files
            for name, one in self.devices().items()
        }

    def reload(self, name: str) -> bool:
        """Load the class of a device anew, and have the machine go on with it.

        Says in one line how that went, and returns whether the new device is there; if not, the old
        one goes on.
        """
        with self._lock:
            try:
                file = self.file_of(name)
            except ConfigurationError as error:
                self._say(str(error))
                return False
            try:
                self._say(f"{name}: {self._reload(name, file)}")
            except Error as error:
                self._say(f"{name}: stays as it was: {error}")
            except Exception as error:  # of the device's own code
                self._say(f"{name}: stays as it was: {describe(error, file.path)}")
            else:
                return True
            return False

    def _reload(self, name: str, file: DeviceFile) -> str:
        """Return how it went; raises what keeps the old device there."""
        begin = time.monotonic()
        if self._machine.ending is not None:
            raise ConfigurationError("the guest has ended")
        before = file.loaded
        old = self._transport(name).device
        try:
            file.loaded, new = _made(file)
            if not self._transport(name).returns(RETURN_SECONDS):
                raise ConfigurationError(f"a handler has not returned for {RETURN_SECONDS:g} s")
            way = self._put(self._transport(name), new)
        finally:
            if self._transport(name).device is old:
                file.loaded = before
        return f"is what {file.path} has now, {way} ({time.monotonic() - begin:.2f} s)"

    def _put(self, transport: VirtioTransport, new: VirtioDevice) -> str:
        why = misfit(transport, new)
        if transport.suspended and not why:
            return self._exchange(transport, new, "with the chain at which it failed")
        if self._machine.agent_if_any is None:
            guest = "the guest, which has no agent,"
        elif not self.may_ask(transport.name):
            guest = "the guest, which stands still,"
        else:
            return self._probe(transport, new)
        if why:
            raise ConfigurationError(f"{guest} cannot be asked to look anew, and {why}")
        return self._exchange(transport, new, f"and {guest} was not asked")

    def _probe(self, transport: VirtioTransport, new: VirtioDevice) -> str:
        """Have the guest let the old device go, and find the new one."""
        name, notes = transport.name, ["probed anew"]
        at_first = self._at_first.get(name, {})

        def with_state(old: VirtioDevice) -> VirtioDevice:
            self._note_state(name, new)
            fresh = self._at_first[name]
            try:
                new.restore(carried(state_of(old), at_first, fresh))
            except Exception as error:
                notes.append(f"without the old one's state ({type(error).__name__}: {error})")
                if fresh:
                    new.restore(fresh)
            return new

        try:
            if not self._replace(name, new, with_state):
                notes.append("and failed already")
        except Error as error:
            if self._transport(name).device is not new:
                self._at_first[name] = at_first
                if misfit(transport, new):
                    raise
                return self._exchange_late(transport, new, error)
            notes.append(f"but the guest does not take it: {error}")
        return ", ".join(notes)

    def _replace(
        self, name: str, new: VirtioDevice, make: Callable[[VirtioDevice], VirtioDevice]
    ) -> bool:
        """Have the machine replace a device, and wait for it; whether ``new`` works.

        A driver that probes a device waits for its answers. One that fails meanwhile gives none
        until it is mended, by another call of this object: that is not waited for.
        """
        raised: list[BaseException] = []

        def replace() -> None:
            try:
                self._machine.replace(name, make, timeout=ASK_SECONDS)
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=replace, name="reload", daemon=True)
        start_thread(thread)
        while thread.is_alive():
            thread.join(LOOK_SECONDS)
            there = self._transport_if_any(name)
            if there is not None and there.device is new and there.suspended:
                return False
        if raised:
            raise raised[0]
        return True

    def _exchange_late(self, transport: VirtioTransport, new: VirtioDevice, error: Error) -> str:
        """Let the new device answer what its driver may wait for, which then lets go of it."""
        from vmm.agent.binding import bind_device

        way = self._exchange(transport, new, f"in the midst of its driver's work: {error}")
        with suppress(Error):  # a driver that has it after all
            bind_device(
                self._machine.agent, self._machine.hardware.find(transport.name), ASK_SECONDS
            )
        return way

    def _exchange(self, transport: VirtioTransport, new: VirtioDevice, way: str) -> str:
        """Let the new device go on where the old one is."""
        name, notes = transport.name, [way]
        at_first = self._at_first.get(name, {})
        fresh = state_of(new)
        changed = False

        def carry(before: TransportState) -> TransportState:
            nonlocal changed
            device = carried(before.device, at_first, fresh)
            try:
                new.negotiated(transport.features)
                new.restore(device)
            except Exception as error:
                notes.append(f"without the old one's state ({type(error).__name__}: {error})")
                device = fresh | {"driver_features": before.device["driver_features"]}
            new.reset()
            if changed := device.get("config") != before.device.get("config"):
                generation = int(before.device["config_generation"]) + 1
                device["config_generation"] = generation & 0xFFFF_FFFF
            return before._replace(device=device)

        self._machine.exchange(name, new, carry)
        self._at_first[name] = fresh
        if changed and new.activation is not None:
            new.activation.notify_config()
        return ", ".join(notes)

    def _note_state(self, name: str, device: VirtioDevice) -> None:
        try:
            self._at_first[name] = state_of(device)
        except Exception as error:
            _log.debug("%s: has no state: %r", name, error)
            self._at_first[name] = {}

    def _transport(self, name: str) -> VirtioTransport:
        transport = self._transport_if_any(name)
        if transport is None:
            raise InternalError(f"{name}: has no transport")
        return transport

    def _transport_if_any(self, name: str) -> VirtioTransport | None:
        found = (one for one in self._machine.hardware.transports if one.name == name)
        return next(found, None)


def _made(file: DeviceFile) -> tuple[LoadedClass, VirtioDevice]:
    """Return the class as a file has it now, and a device of it.

    Raises :class:`ConfigurationError` for code that raises, or makes no end: the thread that
    watches the file, and the end of the run, wait for it.
    """

    def make() -> tuple[LoadedClass, VirtioDevice]:
        loaded = load_class(file.path, file.name)
        return loaded, file.make(loaded)

    try:
        return within(LOAD_SECONDS, make)
    except TimeoutError:
        raise ConfigurationError(f"{file.path}: made no device within {LOAD_SECONDS:g} s") from None
    except Exception:
        raise
    except BaseException as error:  # such as KeyboardInterrupt: it came from the file
        raise ConfigurationError(describe(error, file.path)) from error
