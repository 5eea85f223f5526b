"""The layout of guest-physical memory on x86-64: the one source of addresses.

The layout is Firecracker's, so that experience with it holds here too; structure sizes are those of
the documents named at the modules that write them.
"""

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple

PAGE_SIZE = 0x1000
MEBIBYTE = 1 << 20

BOOT_GDT = 0x500
BOOT_IDT = 0x520
PVH_START_INFO = 0x6000
PVH_MODULES = 0x6040
# A machine boots by one protocol, so what others hand over may stand in the same place.
MULTIBOOT_INFO = 0x6000
MULTIBOOT_INFO_END = 0x8000
ZERO_PAGE = 0x7000
PVH_MEMORY_MAP = 0x7000
BOOT_STACK = 0x8FF0
PML4 = 0x9000
PDPT = 0xA000
PD = 0xB000
"""The first of one for each GiB that is mapped, four at most."""
IDENTITY_MAP_END = 1 << 30
"""What Linux gets; a kernel entered as plain ELF gets 4 GiB, with all registers of devices."""
COMMAND_LINE = 0x20000
COMMAND_LINE_SIZE = 0x10000
SYSTEM_DATA = 0x9FC00
MP_TABLE = 0x9FC00
ACPI_TABLES = 0xA2000
"""Behind the longest MP table; up to the generation ID."""
GENERATION_ID = 0xDFFF0
SYSTEM_DATA_END = 0xE0000
ACPI_RSDP = 0xE0000
HIGH_MEMORY = 0x100000

LOW_RAM_END = 0xC000_0000
ECAM = 0xEEC0_0000
ECAM_END = 0xFEC0_0000
IOAPIC = 0xFEC0_0000
LOCAL_APIC = 0xFEE0_0000
KVM_IDENTITY_MAP = 0xFFFB_C000
KVM_TSS = 0xFFFB_D000
HIGH_RAM = 0x1_0000_0000
HIGH_RAM_END = 0x40_0000_0000

PCI_ECAM = ECAM
"""Configuration space of PCI bus 0, 1 MiB of what the memory map reserves."""
PCI_WINDOWS = ((0xC100_0000, ECAM - 0xC100_0000), (HIGH_RAM_END, HIGH_RAM_END))
"""Where ACPI says that BARs may be, (address, length) each: below 4 GiB, and above all RAM."""
PCI_CONFIG_PORTS = 0xCF8
PCI_FIRST_IRQ = 16
"""The first of the four lines that INTx of all functions share, as an IOAPIC has them."""

ACPI_PORTS = 0x600
ACPI_PORT_COUNT = 8
ACPI_SLEEP_CONTROL_PORT = 0x600
ACPI_SLEEP_STATUS_PORT = 0x601
ACPI_RESET_PORT = 0x602
ACPI_EVENT_PORT = 0x604
ACPI_EVENT_IRQ = 3
"""The line of a second serial port, which there is none of."""

SERIAL_IRQ = 4
VIRTIO_MMIO = 0xC000_1000
VIRTIO_MMIO_SIZE = 0x1000
VIRTIO_MMIO_FIRST_IRQ = 5
VIRTIO_MMIO_COUNT = 19
VIRTIO_MMIO_COUNT_BESIDE_PCI = PCI_FIRST_IRQ - VIRTIO_MMIO_FIRST_IRQ


class VirtioMmioWindow(NamedTuple):
    """The register window of one virtio-mmio device: its address (4 KiB long) and its IRQ."""

    address: int
    irq: int


def virtio_mmio_window(index: int, *, beside_pci: bool = False) -> VirtioMmioWindow:
    """Return the window of the ``index``-th virtio-mmio device.

    Raises :class:`ConfigurationError` past the 19th: IRQs 5-23 are what one IOAPIC has left. Beside
    a PCI bus, to which those from 16 on belong, there are 11.
    """
    most = VIRTIO_MMIO_COUNT_BESIDE_PCI if beside_pci else VIRTIO_MMIO_COUNT
    if not 0 <= index < most:
        place = " with PCI" if beside_pci else ""
        raise ConfigurationError(
            f"virtio-mmio device {index + 1}: a machine{place} has at most {most} of them,"
            " spare slots included"
        )
    return VirtioMmioWindow(VIRTIO_MMIO + index * VIRTIO_MMIO_SIZE, VIRTIO_MMIO_FIRST_IRQ + index)


def ram_regions(size: int) -> list[tuple[int, int]]:
    """Place ``size`` bytes of RAM around the 32-bit hole: ``(first address, length)`` each."""
    low = min(size, LOW_RAM_END)
    return [(0, low)] + [(HIGH_RAM, size - low)] * (size > low)
