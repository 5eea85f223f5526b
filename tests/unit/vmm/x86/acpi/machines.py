"""Machines whose tables are looked at."""

from vmm.x86.acpi.tables import Described
from vmm.x86.layout import VirtioMmioWindow

WINDOWS = (VirtioMmioWindow(0xC0001000, 5), VirtioMmioWindow(0xC0002000, 6))
PCI_WINDOWS = ((0xC1000000, 0x2DC00000), (0x40_0000_0000, 0x40_0000_0000))

SMALL = Described(apic_ids=range(1))
MMIO = Described(apic_ids=range(4), windows=WINDOWS)
PCI = Described(apic_ids=range(2), windows=WINDOWS, pci_windows=PCI_WINDOWS)
LARGE = Described(
    apic_ids=range(254),
    windows=[VirtioMmioWindow(0xC0001000 + n * 0x1000, 5 + n) for n in range(19)],
    pci_windows=PCI_WINDOWS,
)
