"""Arithmetic on unsigned integers of a given width, as the instructions define it."""

from typing import Final

_CASTAGNOLI: Final = 0x82F63B78  # 0x11EDC6F41, bits reversed


def signed(value: int, width: int) -> int:
    """Return the two's complement reading of an unsigned value of ``width`` bits."""
    return value - (value >> width - 1 << width)


def rotate_right(value: int, count: int, width: int) -> int:
    """Return ``value`` rotated right by ``count`` bits, ``count`` less than ``width``."""
    return (value >> count | value << width - count) & (1 << width) - 1


def deposit(source: int, mask: int) -> int:
    """Return the low bits of ``source`` in the places of the bits set in ``mask``."""
    result = 0
    while mask:
        lowest = mask & -mask
        if source & 1:
            result |= lowest
        source >>= 1
        mask ^= lowest
    return result


def extract(source: int, mask: int) -> int:
    """Return the bits of ``source`` that ``mask`` selects, moved together at the low end."""
    result, place = 0, 1
    while mask:
        lowest = mask & -mask
        if source & lowest:
            result |= place
        place <<= 1
        mask ^= lowest
    return result


def crc32c(accumulator: int, data: bytes) -> int:
    """Return CRC-32C carried on over ``data``, with no inversion before or after."""
    for byte in data:
        accumulator ^= byte
        for _ in range(8):
            accumulator = accumulator >> 1 ^ (_CASTAGNOLI if accumulator & 1 else 0)
    return accumulator
