"""The wire format of protocol buffers, as far as a trace needs it: writing, no reading.

"Protocol Buffers: Encoding". A message is the concatenation of its fields.
"""

from __future__ import annotations


def varint(value: int) -> bytes:
    """Return a number of up to 64 bits.

    >>> varint(300)
    b'\\xac\\x02'
    """
    value &= 0xFFFF_FFFF_FFFF_FFFF
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def number(field: int, value: int) -> bytes:
    """Return a field with a number; 0 too, which no reader needs."""
    return varint(field << 3) + varint(value)


def fixed64(field: int, value: int) -> bytes:
    """Return a field with a number of 8 bytes."""
    return varint(field << 3 | 1) + value.to_bytes(8, "little")


def message(field: int, data: bytes) -> bytes:
    """Return a field with a message, or with bytes."""
    return varint(field << 3 | 2) + varint(len(data)) + data


def text(field: int, value: str) -> bytes:
    """Return a field with text."""
    return message(field, value.encode(errors="replace"))
