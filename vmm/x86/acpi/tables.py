"""All tables of one machine, in guest memory: what a firmware would hand to the kernel.

RSDP -> XSDT -> FADT -> DSDT
             -> MADT
             -> MCFG, in a machine with a PCI bus
"""

from collections.abc import Sequence

from virtio.errors import InternalError
from virtio.memory import GuestMemory
from virtio.named_tuple import NamedTuple
from vmm.x86 import layout
from vmm.x86.acpi import devices
from vmm.x86.acpi.aml import integer, name, package, scope
from vmm.x86.acpi.fadt import fadt
from vmm.x86.acpi.madt import madt
from vmm.x86.acpi.mcfg import mcfg
from vmm.x86.acpi.registers import SOFT_OFF
from vmm.x86.acpi.table import rsdp, table, xsdt
from vmm.x86.layout import VirtioMmioWindow

_ALIGNMENT = 16


class Described(NamedTuple):
    """What the tables of a machine tell of.

    ``apic_ids`` are those of the processors, the boot processor's first.
    ``windows`` are the virtio-mmio devices, in the order in which a guest numbers its disks.
    ``pci_windows`` is where BARs may be, (start, length) each; without any there is no PCI bus.
    """

    apic_ids: Sequence[int]
    windows: Sequence[VirtioMmioWindow] = ()
    pci_windows: Sequence[tuple[int, int]] = ()


def write_acpi_tables(memory: GuestMemory, machine: Described) -> None:
    """Write all tables to their place in the layout, and the RSDP where kernels look for it."""
    address = layout.ACPI_TABLES

    def write(data: bytes) -> int:
        nonlocal address
        start, address = address, address + len(data) + -len(data) % _ALIGNMENT
        if address > layout.GENERATION_ID:
            raise InternalError(f"ACPI tables up to {address:#x} reach into the generation ID")
        memory.view(start, len(data))[:] = data
        return start

    listed = [write(fadt(write(dsdt(machine)))), write(madt(machine.apic_ids))]
    if machine.pci_windows:
        listed.append(write(mcfg()))
    pointer = rsdp(write(xsdt(listed)))
    memory.view(layout.ACPI_RSDP, len(pointer))[:] = pointer


def dsdt(machine: Described) -> bytes:
    """Return the table of devices, and of the way to switch the machine off.

    ACPI 6.5 "Differentiated System Description Table (DSDT)", "_Sx (System States)".
    """
    pci = machine.pci_windows
    found = [
        *([devices.pci_root_bridge(pci), devices.motherboard()] if pci else []),
        *(devices.virtio_mmio(index, one) for index, one in enumerate(machine.windows)),
        devices.serial_port(),
        devices.keyboard_controller(),
        devices.pvpanic(),
        devices.power_button(),
        devices.generation_id(),
        devices.generic_event_device(),
    ]
    soft_off = package(integer(SOFT_OFF), integer(0), integer(0), integer(0))
    return table("DSDT", 2, scope("_SB", *found) + name("_S5", soft_off))
