"""The parts of an ACPI machine that are not tables: registers, generation ID, power button."""

import os
from collections.abc import Callable

from vmm.bus import Bus
from vmm.kvm.vm import Vm
from vmm.legacy.irq import IrqLine
from vmm.memory import GuestRam
from vmm.x86 import layout
from vmm.x86.acpi.registers import (
    GENERATION_CHANGED,
    POWER_BUTTON_PRESSED,
    AcpiRegisters,
    AcpiState,
)
from vmm.x86.chips import ioapic_listens, mask_8259s
from vmm.x86.legacy_devices import GuestEvents

GENERATION_ID_BYTES = 16


class AcpiDevices:
    """The registers on ``ports``, with their interrupt, and the generation ID in ``ram``.

    :meth:`begin` or :meth:`restore` follows, before the guest is entered.
    """

    def __init__(
        self,
        vm: Vm,
        ram: GuestRam,
        ports: Bus,
        line: Callable[[int], IrqLine],
        events: GuestEvents,
    ) -> None:
        self._vm = vm
        self._ram = ram
        interrupt = line(layout.ACPI_EVENT_IRQ)
        self.registers = AcpiRegisters(interrupt, events.reset, events.power_off)
        ports.add(layout.ACPI_PORTS, layout.ACPI_PORT_COUNT, self.registers, "ACPI registers")

    def begin(self) -> None:
        """Prepare a new machine."""
        mask_8259s(self._vm)
        self._renew_generation()

    def restore(self, state: AcpiState) -> None:
        """Go on from a saved machine, and have the guest know that others may do so, too.

        Linux mixes the new generation ID into its random numbers when it is told of it.
        """
        self.registers.restore(state)
        self._renew_generation()
        self.registers.signal(GENERATION_CHANGED)

    def press_power_button(self) -> bool:
        """Press the button; False when the guest has no driver that waits for events."""
        if not ioapic_listens(self._vm, layout.ACPI_EVENT_IRQ):
            return False
        self.registers.signal(POWER_BUTTON_PRESSED)
        return True

    def _renew_generation(self) -> None:
        view = self._ram.view(layout.GENERATION_ID, GENERATION_ID_BYTES)
        view[:] = os.urandom(GENERATION_ID_BYTES)
        view.release()
