"""Resource descriptors: which addresses and interrupts a device has, as its ``_CRS`` tells.

Implements ACPI 6.5 "Resource Data Types for ACPI".
"""

import struct
from typing import Final

from vmm.x86.acpi import aml

_END_TAG: Final = b"\x79\x00"

_PRODUCER_FIXED: Final = 0x0C  # passed on to devices behind a bridge; minimum and maximum fixed
_MEMORY, _IO, _BUS = 0, 1, 2
_WRITABLE: Final = 0x01

_EDGE_HIGH_EXCLUSIVE: Final = 0x03  # of a consumer: bits 0 consumer, 1 edge, 2 low, 3 shared


def resource_template(*descriptors: bytes) -> bytes:
    """Return the buffer that holds all descriptors of a device."""
    return aml.buffer(b"".join(descriptors) + _END_TAG)


def io(port: int, count: int) -> bytes:
    """Return ``count`` I/O ports: ACPI 6.5 "I/O Port Descriptor"."""
    decodes_16_bits = 1
    return struct.pack("<BBHHBB", 0x47, decodes_16_bits, port, port, 1, count)


def memory_32_fixed(address: int, length: int) -> bytes:
    """Return writable memory: ACPI 6.5 "32-Bit Fixed Memory Range Descriptor"."""
    return struct.pack("<BHBII", 0x86, 9, _WRITABLE, address, length)


def interrupt(gsi: int) -> bytes:
    """Return an interrupt, edge-triggered: ACPI 6.5 "Extended Interrupt Descriptor"."""
    return struct.pack("<BHBBI", 0x89, 6, _EDGE_HIGH_EXCLUSIVE, 1, gsi)


def bus_numbers(first: int, last: int) -> bytes:
    """Return the buses behind a bridge: ACPI 6.5 "Word Address Space Descriptor"."""
    return _address_space("<BHBBB5H", 0x88, _BUS, 0, first, last)


def memory_window(start: int, length: int) -> bytes:
    """Return memory that a bridge passes on, for BARs of both kinds: not prefetchable, uncached.

    ACPI 6.5 "DWord Address Space Descriptor", or "QWord" for what ends above 4 GiB.
    """
    last = start + length - 1
    if last < 1 << 32:
        return _address_space("<BHBBB5I", 0x87, _MEMORY, _WRITABLE, start, last)
    return _address_space("<BHBBB5Q", 0x8A, _MEMORY, _WRITABLE, start, last)


def _address_space(form: str, tag: int, kind: int, flags: int, first: int, last: int) -> bytes:
    """Return a range by granularity, first and last address, translation, and length."""
    length = struct.calcsize(form) - 3
    numbers = (0, first, last, 0, last - first + 1)
    return struct.pack(form, tag, length, kind, _PRODUCER_FIXED, flags, *numbers)
