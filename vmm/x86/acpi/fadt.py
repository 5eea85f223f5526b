"""The FADT, of a machine whose hardware is reduced: no fixed registers but for reset and sleep.

Implements ACPI 6.5 "Fixed ACPI Description Table (FADT)", "Generic Address Structure (GAS)".
"""

import struct
from typing import Final

from vmm.x86 import layout
from vmm.x86.acpi.aml import SYSTEM_IO
from vmm.x86.acpi.registers import RESET_VALUE
from vmm.x86.acpi.table import HEADER, table

MAJOR, MINOR = 6, 5
LENGTH: Final = 276

IAPC_BOOT_ARCH: Final = 109
FLAGS: Final = 112
RESET_REG: Final = 116
RESET_VALUE_AT: Final = 128
FADT_MINOR: Final = 131
X_DSDT: Final = 140
SLEEP_CONTROL_REG: Final = 244
SLEEP_STATUS_REG: Final = 256
HYPERVISOR_VENDOR: Final = 268

HAS_8042, NO_VGA, NO_CMOS_RTC = 1 << 1, 1 << 2, 1 << 5
# The two buttons are devices in the DSDT, if there are any, and no fixed hardware.
NO_FIXED_POWER_BUTTON, NO_FIXED_SLEEP_BUTTON = 1 << 4, 1 << 5
RESET_REG_SUP: Final = 1 << 10
HW_REDUCED_ACPI: Final = 1 << 20

# space, width in bits, offset in bits, access size, address
_GENERIC_ADDRESS: Final = struct.Struct("<BBBBQ")


def fadt(dsdt_address: int) -> bytes:
    """Return the table; the DSDT is found through it.

    Linux without HW_REDUCED_ACPI would demand power management registers, and give ACPI up. With
    it Linux leaves 8259 and 8254 alone, and takes every interrupt from the DSDT.
    """
    data = bytearray(LENGTH)

    def put(form: str, offset: int, *values: int | bytes) -> None:
        struct.pack_into(form, data, offset, *values)

    flags = NO_FIXED_POWER_BUTTON | NO_FIXED_SLEEP_BUTTON | RESET_REG_SUP | HW_REDUCED_ACPI
    put("<H", IAPC_BOOT_ARCH, HAS_8042 | NO_VGA | NO_CMOS_RTC)
    put("<I", FLAGS, flags)
    put("12s", RESET_REG, _port(layout.ACPI_RESET_PORT))
    put("B", RESET_VALUE_AT, RESET_VALUE)
    put("B", FADT_MINOR, MINOR)
    put("<Q", X_DSDT, dsdt_address)
    put("12s", SLEEP_CONTROL_REG, _port(layout.ACPI_SLEEP_CONTROL_PORT))
    put("12s", SLEEP_STATUS_REG, _port(layout.ACPI_SLEEP_STATUS_PORT))
    put("8s", HYPERVISOR_VENDOR, b"KVMKVMKV")
    return table("FACP", MAJOR, bytes(data[HEADER.size :]))


def _port(port: int) -> bytes:
    """Return the address of a register of one byte."""
    return _GENERIC_ADDRESS.pack(SYSTEM_IO, 8, 0, 1, port)
