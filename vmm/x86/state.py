"""The state of a PC beside its RAM, its vCPUs and its virtio devices, as one plain value."""

from dataclasses import dataclass

from vmm.legacy import I8042State, SerialState
from vmm.x86.chip_state import ChipState
from vmm.x86.pci import PciState


@dataclass(frozen=True, slots=True)
class PlatformState:
    """The chips in the kernel, the legacy devices that hold state, and the PCI bus if any."""

    chips: ChipState
    serial: SerialState
    i8042: I8042State
    pci: PciState | None = None
