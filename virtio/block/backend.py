"""What the block device needs of the thing that holds its bytes."""

from collections.abc import Sequence
from typing import Protocol

SECTOR_BYTES = 512


class BlockBackend(Protocol):
    """A medium of fixed size. Offsets and lengths are bytes; ranges are checked by the caller.

    Every method does all that it is asked, or raises :class:`OSError`; none returns early with a
    part done. A backend with an attribute ``raw_fd`` says that this file is the medium byte for
    byte: native code then reads and writes it in place, instead of :meth:`readv`, :meth:`writev`.
    """

    @property
    def size_bytes(self) -> int:
        """The size of the medium, a multiple of 512."""

    @property
    def read_only(self) -> bool:
        """Whether it refuses to be changed."""

    @property
    def can_unmap(self) -> bool:
        """Whether :meth:`discard` and :meth:`write_zeroes` may give storage back."""

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill the views in turn from ``offset``."""

    def writev(self, views: Sequence[memoryview], offset: int) -> None:
        """Write the views in turn from ``offset``."""

    def flush(self) -> None:
        """Return when everything written before is on stable storage."""

    def discard(self, offset: int, length: int) -> None:
        """Give the storage of a range back; afterwards it reads as zeros or as before."""

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Make a range read as zeros; give its storage back only with ``unmap``."""
