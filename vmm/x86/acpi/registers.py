"""The registers of an ACPI machine: to reset it, to switch it off, and what the host has to tell.

Eight I/O ports. ACPI 6.5 "Sleep Control and Status Registers", "Reset Register"; the event register
is ours, read by the DSDT's method for the generic event device.
"""

import threading
from collections.abc import Callable
from typing import Final

from virtio.named_tuple import NamedTuple
from virtio.saved import U32, check_saved
from vmm.legacy.irq import IrqLine
from vmm.x86 import layout

SLEEP_CONTROL: Final = layout.ACPI_SLEEP_CONTROL_PORT - layout.ACPI_PORTS
RESET: Final = layout.ACPI_RESET_PORT - layout.ACPI_PORTS
EVENTS: Final = layout.ACPI_EVENT_PORT - layout.ACPI_PORTS
EVENT_BYTES: Final = 4

RESET_VALUE: Final = 0x42
SOFT_OFF: Final = 5
"""What the DSDT has the guest write as SLP_TYP for the state S5."""
SLP_EN: Final = 1 << 5
SLP_TYP_SHIFT: Final = 2
_SLEEP_BITS: Final = SLP_EN | 7 << SLP_TYP_SHIFT
_POWER_OFF: Final = SLP_EN | SOFT_OFF << SLP_TYP_SHIFT

POWER_BUTTON_PRESSED: Final = 1 << 0
GENERATION_CHANGED: Final = 1 << 1
_EVENT_MASK: Final = POWER_BUTTON_PRESSED | GENERATION_CHANGED


class AcpiState(NamedTuple):
    """The events that the guest has not read yet."""

    events: U32


class AcpiRegisters:
    """Calls ``on_reset`` or ``on_power_off``, on a vCPU's thread, when the guest asks for it.

    ``line`` is the interrupt of the generic event device.
    """

    def __init__(
        self, line: IrqLine, on_reset: Callable[[], object], on_power_off: Callable[[], object]
    ) -> None:
        self._line = line
        self._on_reset = on_reset
        self._on_power_off = on_power_off
        self._lock = threading.Lock()
        self._events = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return the events since the last read; the other registers hold nothing."""
        if offset == EVENTS and length == EVENT_BYTES:
            with self._lock:
                events, self._events = self._events, 0
            return events.to_bytes(EVENT_BYTES, "little")
        return bytes(length)

    def write(self, offset: int, data: bytes) -> None:
        """Reset the machine or switch it off, if that is what the byte says."""
        if len(data) != 1:
            return
        if offset == RESET and data[0] == RESET_VALUE:
            self._on_reset()
        elif offset == SLEEP_CONTROL and data[0] & _SLEEP_BITS == _POWER_OFF:
            self._on_power_off()

    def signal(self, event: int) -> None:
        """Have the guest read of an event: the bit first, then the interrupt."""
        with self._lock:
            self._events |= event
            self._line.raise_()

    def state(self) -> AcpiState:
        """Return what :meth:`restore` needs to go on from here."""
        with self._lock:
            return AcpiState(self._events)

    def restore(self, state: AcpiState) -> None:
        """Become the registers that ``state`` was taken from; unread events are signalled again.

        Raises :class:`ConfigurationError` for values that no register has.
        """
        check_saved("ACPI registers", state)
        if events := state.events & _EVENT_MASK:
            self.signal(events)
