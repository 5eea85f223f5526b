"""The form that all tables share, and the two that lead to the others: RSDP and XSDT.

Implements ACPI 6.5 "Root System Description Pointer (RSDP)", "System Description Table Header",
"Extended System Description Table (XSDT)".
"""

import struct
from collections.abc import Sequence
from typing import Final

OEM_ID: Final = b"PYVMM "
OEM_TABLE_ID: Final = b"PYVMMPC "
CREATOR_ID: Final = b"PYVM"

# signature, length, revision, checksum, OEM id, table id and revision, creator id and revision
HEADER: Final = struct.Struct("<4sIBB6s8sI4sI")
# signature, checksum, OEM id, revision, RSDT, length, XSDT, checksum of all, reserved
RSDP: Final = struct.Struct("<8sB6sBIIQB3x")
_CHECKSUM: Final = 9
_RSDP_CHECKSUM, _RSDP_CHECKED = 8, 20
_RSDP_EXTENDED_CHECKSUM: Final = 32


def table(signature: str, revision: int, body: bytes) -> bytes:
    """Return a table with its header, the sum of whose bytes is zero."""
    header = HEADER.pack(
        signature.encode("ascii"),
        HEADER.size + len(body),
        revision,
        0,
        OEM_ID,
        OEM_TABLE_ID,
        1,
        CREATOR_ID,
        1,
    )
    data = bytearray(header + body)
    data[_CHECKSUM] = checksum(data)
    return bytes(data)


def xsdt(addresses: Sequence[int]) -> bytes:
    """Return the table that lists the addresses of the others."""
    return table("XSDT", 1, struct.pack(f"<{len(addresses)}Q", *addresses))


def rsdp(xsdt_address: int) -> bytes:
    """Return the pointer by which a kernel finds the XSDT, and so all tables."""
    data = bytearray(RSDP.pack(b"RSD PTR ", 0, OEM_ID, 2, 0, RSDP.size, xsdt_address, 0))
    data[_RSDP_CHECKSUM] = checksum(data[:_RSDP_CHECKED])
    data[_RSDP_EXTENDED_CHECKSUM] = checksum(data)
    return bytes(data)


def checksum(data: bytes | bytearray) -> int:
    """Return the byte that makes the sum of ``data`` and itself a multiple of 256."""
    return -sum(data) & 0xFF
