"""Turns what the taps note into events, with names in the place of numbers.

Taps note as little as they can, on the way of the guest; the names are found later, on the thread
of the trace.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Final

from transport.core import VirtioTransport
from virtio.virtqueue.watched import Given, Taken
from vmm.hardware import Hardware
from vmm.trace import events
from vmm.trace.names import feature_names, request_of
from vmm.trace.registers import meaning_of, pci_header_register, port_register, register_of

Note = tuple[Any, ...]
"""Time, kind of event, thread by number, device, queue, and the fields of the event."""

_MEMORY: Final = "PCI memory"
_CONFIGURATION: Final = "PCI configuration"
_CONFIG_ADDRESS: Final = 0xCF8
LAST_WORD: Final = 3


class Decoder:
    """Decodes the notes of one machine."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware
        self._threads: dict[int, str] = {}
        self._transports: dict[str, VirtioTransport] = {}
        self._config_address = 0
        self._selected: dict[tuple[str, str], int] = {}
        self.look()

    def look(self) -> None:
        """Learn the devices there are now; those that were taken out are remembered."""
        self._transports |= {one.name: one for one in self._hardware.transports}

    def event(self, note: Note) -> events.Event:
        """Return the event of a note of a tap."""
        at, kind, thread, device, queue, *fields = note
        common = (at, self._thread(thread), device, queue)
        if kind is events.Access:
            return self._access(common, *fields)
        if kind is events.Features:
            offered, accepted, taken = fields
            one = self._transports.get(device)
            names = "" if one is None else feature_names(one.device, accepted)
            return events.Features(*common, offered, accepted, taken, names)
        made: events.Event = kind(*common, *fields)
        return made

    def chains(
        self, device: str, queue: int, thread: int, told: Iterator[Taken | Given]
    ) -> Iterator[events.Event]:
        """Return the events of chains that a ring has told of."""
        name = self._thread(thread)
        one = self._transports.get(device)
        device_id = 0 if one is None else one.device.device_id
        for chain in told:
            if len(chain) == 3:
                yield events.Completed(chain[0], name, device, queue, chain[1], chain[2])
                continue
            at, number, total, head, descriptors = chain
            readable = writable = 0
            for _, length, writes in descriptors:
                if writes:
                    writable += length
                else:
                    readable += length
            request = request_of(device_id, queue, head, readable, writable)
            yield events.Taken(at, name, device, queue, number, total, head, descriptors, *request)

    def _thread(self, ident: int) -> str:
        name = self._threads.get(ident)
        if name is None:
            self._threads |= {one.ident or 0: one.name for one in threading.enumerate()}
            name = self._threads.setdefault(ident, f"thread-{ident & 0xFFFF}" if ident else "")
        return name

    # Accesses

    def _access(
        self,
        common: tuple[int, str, str, int],
        reason: str,
        duration: int,
        address: int,
        length: int,
        value: int,
        is_write: bool,
    ) -> events.Access:
        bus = self._hardware.ports if reason == "io" else self._hardware.mmio
        device = register = ""
        for base, size, name in bus.ranges():
            if base <= address < base + size:
                device, register = self._name(reason, name, address, base)
                break
        if reason == "io" and is_write and address == _CONFIG_ADDRESS and length == 4:
            self._config_address = value
        at, thread, _, queue = common
        return events.Access(
            *(at, thread, device, queue, reason, duration),
            *(address, length, value, is_write, register),
            self._meaning(device, register, value),
        )

    def _meaning(self, device: str, register: str, value: int) -> str:
        """Return what a value says; of words of features their names, by the word selected last."""
        side = register.lower().replace("_", "").removesuffix("sel").removesuffix("select")
        if side not in ("devicefeatures", "driverfeatures", "devicefeature", "driverfeature"):
            return meaning_of(register, value)
        key = device, side.removesuffix("s")
        if register.lower().endswith(("sel", "select")):
            self._selected[key] = value
            return str(value)
        one, word = self._transports.get(device), self._selected.get(key, 0)
        if one is None or word > LAST_WORD:
            return ""
        return feature_names(one.device, value << 32 * word) or "none"

    def _name(self, reason: str, name: str, address: int, base: int) -> tuple[str, str]:
        if reason == "io":
            if name == _CONFIGURATION and base + 4 <= address < base + 8:
                target = self._config_address
                return self._function(target >> 11 & 31, (target & 0xFC) + address - base - 4)
            return name, port_register(name, address, base)
        if (one := self._transports.get(name)) is not None:
            return name, register_of(one, address - base)
        if name == _CONFIGURATION:
            return self._function((address - base) >> 15 & 31, (address - base) & 0xFFF)
        if name == _MEMORY:
            return self._bar(address)
        return name, ""

    def _function(self, slot: int, offset: int) -> tuple[str, str]:
        for one in self._hardware.slots:
            if one.transport == "pci" and one.number == slot and one.device:
                return one.device, f"pci {pci_header_register(offset)}"
        return f"pci slot {slot}", f"pci {pci_header_register(offset)}"

    def _bar(self, address: int) -> tuple[str, str]:
        for name, one in self._transports.items():
            base = self._hardware.bar_address(name)
            if base is not None and base <= address < base + 0x8000:
                return name, register_of(one, address - base)
        return _MEMORY, ""
