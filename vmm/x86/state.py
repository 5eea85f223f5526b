"""The state of a PC beside its RAM, its vCPUs and its virtio devices, as one plain value."""

from dataclasses import dataclass

from vmm.legacy import I8042State, SerialState
from vmm.x86.acpi.registers import AcpiState
from vmm.x86.chip_state import ChipState
from vmm.x86.pci import PciState


@dataclass(frozen=True, slots=True)
class PlatformState:
    """The chips in the kernel, and the devices of the PC that hold state.

    ``pci`` is None in a machine without a PCI bus, ``acpi`` in one without ACPI.
    """

    chips: ChipState
    serial: SerialState
    i8042: I8042State
    pci: PciState | None = None
    acpi: AcpiState | None = None
