"""Names of registers: virtio-mmio, the structures of virtio PCI, and the ports of a PC.

VIRTIO 1.4 "MMIO Device Register Layout", "Common configuration structure layout".
"""

from __future__ import annotations

from typing import Final

from transport.core import VirtioTransport
from transport.mmio.registers import VirtioMmio
from transport.pci import layout
from transport.status import status_names
from vmm.trace.names import field_name

MMIO: Final = {
    0x000: "MagicValue",
    0x004: "Version",
    0x008: "DeviceID",
    0x00C: "VendorID",
    0x010: "DeviceFeatures",
    0x014: "DeviceFeaturesSel",
    0x020: "DriverFeatures",
    0x024: "DriverFeaturesSel",
    0x030: "QueueSel",
    0x034: "QueueSizeMax",
    0x038: "QueueSize",
    0x044: "QueueReady",
    0x050: "QueueNotify",
    0x060: "InterruptStatus",
    0x064: "InterruptACK",
    0x070: "Status",
    0x080: "QueueDescLow",
    0x084: "QueueDescHigh",
    0x090: "QueueDriverLow",
    0x094: "QueueDriverHigh",
    0x0A0: "QueueDeviceLow",
    0x0A4: "QueueDeviceHigh",
    0x0AC: "SHMSel",
    0x0B0: "SHMLenLow",
    0x0B4: "SHMLenHigh",
    0x0B8: "SHMBaseLow",
    0x0BC: "SHMBaseHigh",
    0x0C0: "QueueReset",
    0x0FC: "ConfigGeneration",
}
PCI_COMMON: Final = {
    0x00: "device_feature_select",
    0x04: "device_feature",
    0x08: "driver_feature_select",
    0x0C: "driver_feature",
    0x10: "config_msix_vector",
    0x12: "num_queues",
    0x14: "device_status",
    0x15: "config_generation",
    0x16: "queue_select",
    0x18: "queue_size",
    0x1A: "queue_msix_vector",
    0x1C: "queue_enable",
    0x1E: "queue_notify_off",
    0x20: "queue_desc",
    0x24: "queue_desc+4",
    0x28: "queue_driver",
    0x2C: "queue_driver+4",
    0x30: "queue_device",
    0x34: "queue_device+4",
    0x38: "queue_notif_config_data",
    0x3A: "queue_reset",
    0x3C: "admin_queue_index",
    0x3E: "admin_queue_num",
}
_SERIAL: Final = ("RBR/THR", "IER", "IIR/FCR", "LCR", "MCR", "LSR", "MSR", "SCR")
_PCI_HEADER: Final = {
    0x00: "Vendor ID",
    0x02: "Device ID",
    0x04: "Command",
    0x06: "Status",
    0x08: "Revision ID",
    0x0A: "Class",
    0x0E: "Header Type",
    0x34: "Capabilities Pointer",
    0x3C: "Interrupt Line",
    0x3D: "Interrupt Pin",
    **{0x10 + 4 * bar: f"BAR {bar}" for bar in range(6)},
}


def register_of(transport: VirtioTransport, offset: int) -> str:
    """Return the name of a device's register at an offset into its window or BAR."""
    if isinstance(transport, VirtioMmio):
        if offset >= 0x100:
            return field_name(transport.device, offset - 0x100)
        return MMIO.get(offset, f"reserved {offset:#05x}")
    if offset < layout.COMMON_BYTES:
        return PCI_COMMON.get(offset, f"common+{offset:#x}")
    if offset == layout.ISR:
        return "isr"
    if layout.DEVICE <= offset < layout.DEVICE + layout.DEVICE_BYTES:
        return field_name(transport.device, offset - layout.DEVICE)
    if layout.NOTIFY <= offset < layout.TABLE:
        return f"notify {(offset - layout.NOTIFY) // layout.NOTIFY_MULTIPLIER}"
    if layout.TABLE <= offset < layout.PENDING:
        field = ("address", "address high", "data", "control")[offset % 16 // 4]
        return f"msix {(offset - layout.TABLE) // 16} {field}"
    return f"msix pending+{offset - layout.PENDING:#x}"


def meaning_of(register: str, value: int) -> str:
    """Return what a register's value says, empty where the number says it best."""
    if register in ("Status", "device_status"):
        return status_names(value)
    if register in ("InterruptStatus", "InterruptACK", "isr"):
        bits = ((1, "used buffers"), (2, "configuration"))
        return " + ".join(name for bit, name in bits if value & bit) or "none"
    if register in ("QueueSel", "queue_select", "QueueNotify", "QueueSize", "queue_size"):
        return str(value)
    return ""


def port_register(device: str, port: int, base: int) -> str:
    """Return the name of a port of the device whose range begins at ``base``."""
    if device == "serial":
        return _SERIAL[(port - base) % len(_SERIAL)]
    if device == "PCI configuration":
        return "CONFIG_ADDRESS" if port < base + 4 else "CONFIG_DATA"
    return f"{device}+{port - base}" if port > base else device


def pci_header_register(offset: int) -> str:
    """Return the name of a place in a function's configuration space."""
    return _PCI_HEADER.get(offset, f"configuration {offset:#x}")
