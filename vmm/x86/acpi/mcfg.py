"""The MCFG, which tells where PCI configuration space stands in memory.

Implements PCI Firmware Specification 3.3 "MCFG Table Description".
"""

import struct
from typing import Final

from vmm.x86 import layout
from vmm.x86.acpi.table import table

# reserved, then address of bus 0, segment, first and last bus
_BODY: Final = struct.Struct("<8xQHBB4x")


def mcfg() -> bytes:
    """Return the table of the one bus that a machine may have."""
    return table("MCFG", 1, _BODY.pack(layout.PCI_ECAM, 0, 0, 0))
