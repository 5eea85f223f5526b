"""The MADT, which tells of processors and the IOAPIC.

Implements ACPI 6.5 "Multiple APIC Description Table (MADT)". A kernel that finds no IOAPIC there
has no interrupts of devices.
"""

import struct
from collections.abc import Sequence
from typing import Final

from vmm.x86 import layout
from vmm.x86.acpi.table import table
from vmm.x86.limits import check_cpus

REVISION: Final = 5
ENABLED: Final = 1
LINT1: Final = 1
ALL_PROCESSORS: Final = 0xFF

# local APIC address, flags
_HEAD: Final = struct.Struct("<II")
# 0, length, processor's uid, APIC id, flags
_LOCAL_APIC: Final = struct.Struct("<BBBBI")
# 1, length, id, reserved, address, first GSI
_IOAPIC: Final = struct.Struct("<BBBBII")
# 4, length, processor's uid, polarity and trigger, input
_LOCAL_NMI: Final = struct.Struct("<BBBHB")


def madt(apic_ids: Sequence[int]) -> bytes:
    """Return the table of the processors with these IDs, the boot processor first.

    There are no interrupt source overrides: in KVM an ISA interrupt and the IOAPIC's input have the
    same number. Raises :class:`ConfigurationError` unless there are 1 to 254.
    """
    check_cpus(len(apic_ids))
    entries = [
        *(
            _LOCAL_APIC.pack(0, _LOCAL_APIC.size, cpu, apic_id, ENABLED)
            for cpu, apic_id in enumerate(apic_ids)
        ),
        _IOAPIC.pack(1, _IOAPIC.size, 0, 0, layout.IOAPIC, 0),
        _LOCAL_NMI.pack(4, _LOCAL_NMI.size, ALL_PROCESSORS, 0, LINT1),
    ]
    return table("APIC", REVISION, _HEAD.pack(layout.LOCAL_APIC, 0) + b"".join(entries))
