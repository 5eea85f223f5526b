"""Accesses to registers: the same names on both transports, and whether the access is a proper one.

VIRTIO 1.2 "MMIO Device Register Layout", "Common configuration structure layout".
"""

from __future__ import annotations

from typing import Final

from virtio.device.configuration import BytesField
from vmm.driver_check.case import Case
from vmm.trace.events import Access
from vmm.trace.registers import MMIO, PCI_COMMON

WRITE_ONLY: Final = {
    *("DeviceFeaturesSel", "DriverFeatures", "DriverFeaturesSel", "QueueSel", "QueueSize"),
    *("QueueNotify", "InterruptACK", "QueueDescLow", "QueueDescHigh", "QueueDriverLow"),
    *("QueueDriverHigh", "QueueDeviceLow", "QueueDeviceHigh", "SHMSel"),
}
READ_ONLY: Final = {
    *("MagicValue", "Version", "DeviceID", "VendorID", "DeviceFeatures", "QueueSizeMax"),
    *("InterruptStatus", "SHMLenLow", "SHMLenHigh", "SHMBaseLow", "SHMBaseHigh"),
    "ConfigGeneration",
}
LEGACY: Final = {
    "reserved 0x028": ("GuestPageSize", "leave it out: version 2 has no pages of a queue"),
    "reserved 0x03c": ("QueueAlign", "leave it out: the three areas have an address each"),
    "reserved 0x040": (
        "QueuePFN",
        "write the addresses of the areas to 0x080-0x0a4, then QueueReady (0x044) = 1",
    ),
}

PCI_READ_ONLY: Final = {
    *("device_feature", "num_queues", "config_generation", "queue_notify_off"),
    *("queue_notif_config_data", "admin_queue_index", "admin_queue_num"),
}
_PCI_FOUR: Final = {
    *("device_feature_select", "device_feature", "driver_feature_select", "driver_feature"),
    *("queue_desc", "queue_desc+4", "queue_driver", "queue_driver+4"),
    *("queue_device", "queue_device+4"),
}
_PCI_ONE: Final = {"device_status", "config_generation"}
_PCI_NAMES: Final = {
    "device_status": "Status",
    "device_feature": "DeviceFeatures",
    "device_feature_select": "DeviceFeaturesSel",
    "driver_feature": "DriverFeatures",
    "driver_feature_select": "DriverFeaturesSel",
    "queue_select": "QueueSel",
    "queue_size": "QueueSize",
    "queue_enable": "QueueReady",
    "queue_desc": "QueueDescLow",
    "queue_desc+4": "QueueDescHigh",
    "queue_driver": "QueueDriverLow",
    "queue_driver+4": "QueueDriverHigh",
    "queue_device": "QueueDeviceLow",
    "queue_device+4": "QueueDeviceHigh",
    "queue_reset": "QueueReset",
    "config_generation": "ConfigGeneration",
    "isr": "InterruptStatus",
}


def common_name(case: Case, register: str) -> str:
    """Return what MMIO calls a register of either transport."""
    return _PCI_NAMES.get(register, register) if case.kind == "pci" else register


def is_proper(case: Case, access: Access) -> bool:
    """Whether the device takes an access; note what is wrong with the others."""
    if access.register.startswith(("config.", "config+")):
        return _is_proper_configuration(case, access)
    return _is_proper_mmio(case, access) if case.kind == "mmio" else _is_proper_pci(case, access)


def _verb(access: Access) -> str:
    return "wrote" if access.is_write else "read"


def _is_proper_mmio(case: Case, access: Access) -> bool:
    register = access.register
    if register in LEGACY:
        name, do = LEGACY[register]
        where = register.removeprefix("reserved ")
        case.finds(
            "register-legacy", each=name, verb=_verb(access), register=where, legacy=name, next=do
        )
        return False
    if access.length != 4 or access.address % 4:
        name = register.removeprefix("reserved ")
        case.finds("register-width", verb=_verb(access), length=access.length, register=name)
        return False
    case.keeps("DRV-REG-01")
    if register not in MMIO.values():
        where = register.removeprefix("reserved ")
        case.finds("register-unknown", verb=_verb(access), register=where)
        return False
    case.keeps("DRV-REG-02")
    if access.is_write and register in READ_ONLY:
        case.finds("register-read-only", register=register, value=access.value)
        return False
    if not access.is_write and register in WRITE_ONLY:
        case.finds("register-write-only", register=register)
        return False
    case.keeps("DRV-REG-03")
    return True


def _is_proper_pci(case: Case, access: Access) -> bool:
    register = access.register
    if register not in PCI_COMMON.values() and not register.startswith("common+"):
        return True  # notifications, the ISR and MSI-X have rules of their own
    width = 4 if register in _PCI_FOUR else 1 if register in _PCI_ONE else 2
    pair = access.length == 8 and register in ("queue_desc", "queue_driver", "queue_device")
    if register.startswith("common+") or not (access.length == width or pair):
        case.finds(
            "field-width",
            verb=_verb(access),
            length=access.length,
            register=register,
            width="whole fields, of 1, 2 or 4" if register.startswith("common+") else width,
        )
        return False
    if access.is_write and register in PCI_READ_ONLY:
        case.finds("field-read-only", register=register, value=access.value)
        return False
    case.keeps("DRV-REG-04")
    return True


def _is_proper_configuration(case: Case, access: Access) -> bool:
    field = case.fields.get(access.register)
    if field is None:
        if access.is_write:
            case.finds("config-read-only", register=access.register)
        return True
    unit = 1 if isinstance(field, BytesField) else min(field.width, 4)
    if access.length != unit:
        width = f"{field.width} bytes"
        words = f"{unit} byte{'s' if unit > 1 else ''}"
        case.finds(
            "config-width",
            each=access.register,
            verb=_verb(access),
            length=access.length,
            register=access.register,
            width=width,
            unit=words,
        )
        return True
    case.keeps("DRV-CFG-01")
    return True
