"""Sizes as people write them."""

import re
from typing import Final

from virtio.errors import ConfigurationError

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE: Final = re.compile(r"(\d{1,12})([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` means: digits, then K, M, G or T or none of them.

    >>> parse_size("128M"), parse_size("1GiB"), parse_size("4096")
    (134217728, 1073741824, 4096)

    Raises :class:`ConfigurationError`.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(
            f"size {text!r}: must be a number of bytes, or one with K, M, G or T, such as 128M"
        )
    return int(match[1]) * _UNITS[match[2].upper()]
