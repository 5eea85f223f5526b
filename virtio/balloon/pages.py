"""Pages that a guest can do without: from numbers and buffers to ranges that can be given back.

VIRTIO 1.4 "Traditional Memory Balloon Device". What a driver names is anything: pages outside of
RAM, pages twice, halves of the host's pages. Only whole pages of the host inside RAM are left.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

Range = tuple[int, int]
"""A range of guest-physical memory: its first address, and its length in bytes."""

PAGE_BYTES: Final = 4096
"""The unit of the balloon's page numbers, whatever the pages of guest and host are."""

PIECE_BYTES: Final = 4 << 20
"""The most that is given back at once: about a millisecond's work for the host."""


def ranges_of(numbers: Iterable[int]) -> list[Range]:
    """Return the ranges of pages with these numbers, in order, each page once.

    >>> ranges_of([7, 9, 8, 7, 3])
    [(12288, 4096), (28672, 12288)]
    """
    found: list[Range] = []
    for number in sorted(set(numbers)):
        address = number * PAGE_BYTES
        if found and sum(found[-1]) == address:
            found[-1] = found[-1][0], found[-1][1] + PAGE_BYTES
        else:
            found.append((address, PAGE_BYTES))
    return found


def whole_pages(part: Range, regions: Sequence[Range], host_page_bytes: int) -> Iterator[Range]:
    """Yield what of a range can be given back: the host's pages that lie in it and in RAM, whole.

    The host's pages are counted from the start of each region. None of what is yielded is longer
    than ``PIECE_BYTES``.

    >>> list(whole_pages((0x1800, 0x10000), [(0, 0x4000), (0x8000, 0x1000)], 4096))
    [(8192, 8192), (32768, 4096)]
    """
    first, length = part
    for start, size in regions:
        low = max(first, start) - start
        high = min(first + length, start + size) - start
        low = -(-low // host_page_bytes) * host_page_bytes
        high = high // host_page_bytes * host_page_bytes
        for offset in range(low, high, PIECE_BYTES):
            yield start + offset, min(PIECE_BYTES, high - offset)
