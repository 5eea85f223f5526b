"""The devices of the DSDT: what each is called, and where its registers and interrupts are.

Implements ACPI 6.5 "Device Identification Objects", "Device Configuration Objects", "Generic Event
Device", "Control Method Power Button"; the ids of others come from their drivers in Linux.
"""

from collections.abc import Sequence
from typing import Final

from vmm.legacy import COM1_BASE, COM1_IRQ, PVPANIC_PORT
from vmm.legacy.i8042 import COMMAND_PORT, DATA_PORT, KEYBOARD_IRQ
from vmm.legacy.serial import PORT_COUNT
from vmm.x86 import layout
from vmm.x86.acpi.aml import (
    LOCAL0,
    SYSTEM_IO,
    bit_and,
    device,
    dword_field,
    eisa_id,
    if_,
    integer,
    method,
    name,
    name_string,
    notify,
    operation_region,
    package,
    store,
    string,
)
from vmm.x86.acpi.registers import GENERATION_CHANGED, POWER_BUTTON_PRESSED
from vmm.x86.acpi.resources import (
    bus_numbers,
    interrupt,
    io,
    memory_32_fixed,
    memory_window,
    resource_template,
)
from vmm.x86.layout import VirtioMmioWindow

ECAM_BYTES: Final = 1 << 20
_PRESENT: Final = 0x0F  # present, enabled, shown, working
_CHANGED: Final = 0x80
"""The first notification that a kind of device may give a meaning to."""
_PCI_SLOTS: Final = 32
_PCI_LINES: Final = 4


def serial_port() -> bytes:
    """Return COM1. Without it the kernel's messages appear, but no output of programs does."""
    return device(
        "COM1",
        name("_HID", eisa_id("PNP0501")),
        name("_UID", integer(0)),
        name("_STA", integer(_PRESENT)),
        name("_CRS", resource_template(io(COM1_BASE, PORT_COUNT), interrupt(COM1_IRQ))),
    )


def keyboard_controller() -> bytes:
    """Return the i8042, which also resets the machine."""
    ports = io(DATA_PORT, 1) + io(COMMAND_PORT, 1)
    return device(
        "PS2",
        name("_HID", eisa_id("PNP0303")),
        name("_STA", integer(_PRESENT)),
        name("_CRS", resource_template(ports, interrupt(KEYBOARD_IRQ))),
    )


def pvpanic() -> bytes:
    """Return the port to which a kernel tells that it panicked: QEMU docs/specs/pvpanic.rst."""
    return device(
        "PEVT",
        name("_HID", string("QEMU0001")),
        name("_STA", integer(_PRESENT)),
        name("_CRS", resource_template(io(PVPANIC_PORT, 1))),
    )


def virtio_mmio(index: int, window: VirtioMmioWindow) -> bytes:
    """Return the ``index``-th virtio-mmio device: Linux drivers/virtio/virtio_mmio.c."""
    registers = memory_32_fixed(window.address, layout.VIRTIO_MMIO_SIZE)
    return device(
        f"V{index:03}",
        name("_HID", string("LNRO0005")),
        name("_UID", integer(index)),
        name("_CCA", integer(1)),
        name("_CRS", resource_template(registers, interrupt(window.irq))),
    )


def power_button() -> bytes:
    """Return the button that asks the guest to power itself off."""
    return device("PWRB", name("_HID", eisa_id("PNP0C0C")), name("_UID", integer(0)))


def generation_id() -> bytes:
    """Return where the generation ID stands, 16 bytes which differ after each restore.

    Microsoft "Virtual Machine Generation ID"; Linux drivers/virt/vmgenid.c knows the first of the
    compatible ids.
    """
    low, high = layout.GENERATION_ID & 0xFFFF_FFFF, layout.GENERATION_ID >> 32
    return device(
        "VGEN",
        name("_HID", string("PYVM0001")),
        name("_CID", package(string("VMGENCTR"), string("VM_Gen_Counter"))),
        name("_DDN", string("VM_Gen_Counter")),
        name("ADDR", package(integer(low), integer(high))),
    )


def generic_event_device() -> bytes:
    """Return the device whose interrupt tells that one of the two above has news.

    The event register forgets what it held when it is read, so the method reads it once.
    """
    return device(
        "GED",
        name("_HID", string("ACPI0013")),
        name("_UID", integer(0)),
        name("_CRS", resource_template(interrupt(layout.ACPI_EVENT_IRQ))),
        operation_region("EREG", SYSTEM_IO, layout.ACPI_EVENT_PORT, 4),
        dword_field("EREG", "EVNT"),
        method(
            "_EVT",
            store(name_string("EVNT"), LOCAL0),
            if_(bit_and(LOCAL0, integer(POWER_BUTTON_PRESSED)), notify("PWRB", _CHANGED)),
            if_(bit_and(LOCAL0, integer(GENERATION_CHANGED)), notify("VGEN", _CHANGED)),
            arguments=1,
            serialized=True,
        ),
    )


def pci_root_bridge(windows: Sequence[tuple[int, int]]) -> bytes:
    """Return the bridge to PCI bus 0, which passes ``windows`` of memory on, (start, length) each.

    PCI Firmware Specification 3.3 "Objects for PCI root bridges"; line ``(slot + pin) % 4`` of
    those that follow PCI_FIRST_IRQ is that of a function's pin, A being 0.
    """
    routes = (
        package(
            integer(slot << 16 | 0xFFFF),
            integer(0),
            integer(0),
            integer(layout.PCI_FIRST_IRQ + slot % _PCI_LINES),
        )
        for slot in range(1, _PCI_SLOTS)
    )
    return device(
        "PC00",
        name("_HID", eisa_id("PNP0A08")),
        name("_CID", eisa_id("PNP0A03")),
        name("_UID", integer(0)),
        name("_SEG", integer(0)),
        name("_BBN", integer(0)),
        name("_CCA", integer(1)),
        name(
            "_CRS",
            resource_template(
                bus_numbers(0, 0),
                io(layout.PCI_CONFIG_PORTS, 8),
                *(memory_window(start, length) for start, length in windows),
            ),
        ),
        name("_PRT", package(*routes)),
    )


def motherboard() -> bytes:
    """Return what nobody else may use: Linux takes ECAM only where somebody reserves it."""
    return device(
        "MBRD",
        name("_HID", eisa_id("PNP0C02")),
        name("_CRS", resource_template(memory_32_fixed(layout.PCI_ECAM, ECAM_BYTES))),
    )
