"""What the block device needs of the thing that holds its bytes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

SECTOR_BYTES: Final = 512
PAGE_BYTES: Final = 4096


class BlockBackend(ABC):
    """A medium of fixed size. Offsets and lengths are bytes; ranges are checked by the caller.

    Every method does all that it is asked, or raises :class:`OSError`; none returns early with a
    part done. ``size_bytes`` is the size of the medium, a multiple of 512; ``read_only`` whether it
    refuses to be changed; ``can_unmap`` whether :meth:`discard` and :meth:`write_zeroes` may give
    storage back; ``name`` stands in messages.

    ``may_wait`` tells whether a call may take long, or for ever, as a disk that does not answer
    makes it. The device then makes the calls on threads of its own, several at a time, on memory of
    its own; the forms with ``try_`` it makes in place first. A medium in memory says False, and all
    of its calls are made in place.

    ``block_size`` is the smallest part, in bytes, that can be read or written alone,
    ``physical_block_size`` one for which nothing else has to be read, and ``discard_alignment`` one
    whose storage can be given back.

    ``fd`` is a file that is the medium byte for byte, or None: native code reads and writes it in
    place, instead of :meth:`readv` and :meth:`writev`.
    """

    name: str = "disk"
    size_bytes: int
    read_only: bool
    can_unmap: bool
    may_wait: bool = True
    fd: int | None = None
    block_size: int = SECTOR_BYTES
    physical_block_size: int = PAGE_BYTES
    discard_alignment: int = PAGE_BYTES

    @abstractmethod
    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill the views in turn from ``offset``."""

    @abstractmethod
    def writev(self, views: Sequence[memoryview], offset: int) -> None:
        """Write the views in turn from ``offset``."""

    @abstractmethod
    def flush(self) -> None:
        """Return when everything written before is on stable storage."""

    @abstractmethod
    def discard(self, offset: int, length: int) -> None:
        """Give the storage of a range back; afterwards it reads as zeros or as before."""

    @abstractmethod
    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Make a range read as zeros; give its storage back only with ``unmap``."""

    def try_readv(self, views: Sequence[memoryview], offset: int) -> bool:
        """Fill the views if that takes no waiting; False leaves them with any content."""
        if self.may_wait:
            return False
        self.readv(views, offset)
        return True

    def try_writev(self, views: Sequence[memoryview], offset: int) -> bool:
        """Write the views if that takes no waiting; False leaves the range as it was."""
        if self.may_wait:
            return False
        self.writev(views, offset)
        return True

    def try_flush(self) -> bool:
        """Make everything written before stable if that takes no waiting."""
        if self.may_wait:
            return False
        self.flush()
        return True
