"""What a guest tells of its memory. VIRTIO 1.4 "Memory Statistics"."""

from collections.abc import Mapping
from struct import Struct
from typing import Final

from virtio.named_tuple import NamedTuple

ENTRY: Final = Struct("<HQ")
"""``struct virtio_balloon_stat { le16 tag; le64 val; }``, packed."""

MAX_ENTRIES: Final = 256
"""How many entries are looked at; the specification knows 16 tags."""


class BalloonStatistics(NamedTuple):
    """The guest's counts; None for what its driver does not tell.

    ``..._bytes`` are amounts of memory, the others events since the guest started. The fields stand
    in the order of their tags, from 0 on.

    >>> BalloonStatistics.of(bytes.fromhex("0400 0010000000000000 ffff 0000000000000000 0500"))
    ... # doctest: +ELLIPSIS
    BalloonStatistics(...free_bytes=4096, total_bytes=None, ...)
    """

    swap_in_bytes: int | None = None
    swap_out_bytes: int | None = None
    major_faults: int | None = None
    minor_faults: int | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None
    available_bytes: int | None = None
    caches_bytes: int | None = None
    hugetlb_allocations: int | None = None
    hugetlb_failures: int | None = None
    oom_kills: int | None = None
    allocation_stalls: int | None = None
    asynchronous_scans: int | None = None
    direct_scans: int | None = None
    asynchronous_reclaims: int | None = None
    direct_reclaims: int | None = None

    @classmethod
    def of(cls, data: bytes) -> "BalloonStatistics":
        """Read a buffer of the driver's: entries in any order, unknown tags ignored (``BAL-04``).

        So is a part of an entry at the end.
        """
        names = cls.__match_args__
        whole = len(data) // ENTRY.size * ENTRY.size
        told: Mapping[str, int] = {
            names[tag]: value for tag, value in ENTRY.iter_unpack(data[:whole]) if tag < len(names)
        }
        return cls(**told)
