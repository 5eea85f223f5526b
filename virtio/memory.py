"""What virtio needs of guest memory: zero-copy views by guest-physical address.

The virtual machine monitor supplies an implementation of :class:`GuestMemory`;
:class:`FlatMemory` serves both it and tests without any KVM.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

from virtio.errors import Error


class MemoryAccessError(Error):
    """A range of guest-physical addresses does not lie inside guest RAM."""

    def __init__(self, address: int, length: int) -> None:
        self.address = address
        self.length = length
        super().__init__(f"guest memory [{address:#x}, +{length:#x}) is not inside guest RAM")


class GuestMemory(Protocol):
    """Guest RAM, as a device sees it."""

    @property
    def regions(self) -> list[tuple[int, int]]:
        """The regions as ``(first address, length in bytes)``, in ascending order."""

    def view(self, address: int, length: int) -> memoryview:
        """Return a writable byte view of ``[address, address + length)`` inside one region.

        Raises :class:`MemoryAccessError` when any byte of it is outside guest RAM, or when it
        spans two regions.
        """

    def views(self, address: int, length: int) -> list[memoryview]:
        """Return the same range as one view per region; none for length 0.

        Raises :class:`MemoryAccessError` when any byte of it is outside guest RAM.
        """


class FlatMemory:
    """Guest memory over buffers of the host: ``(guest-physical address, buffer)`` each.

    The buffers (``bytearray``, ``mmap``) must be writable, and must not overlap in the guest.
    """

    def __init__(self, regions: Sequence[tuple[int, bytearray | memoryview]]) -> None:
        ordered = sorted(((base, memoryview(data).cast("B")) for base, data in regions), key=_base)
        self._starts = [base for base, _ in ordered]
        self._ends = [base + len(data) for base, data in ordered]
        self._data = [data for _, data in ordered]
        for end, start in zip(self._ends, self._starts[1:], strict=False):
            if end > start:
                raise ValueError(f"memory regions overlap at {start:#x}")

    @property
    def regions(self) -> list[tuple[int, int]]:
        """The regions as ``(first address, length in bytes)``, in ascending order."""
        return [(start, len(data)) for start, data in zip(self._starts, self._data, strict=True)]

    def view(self, address: int, length: int) -> memoryview:
        """Return a writable byte view of ``[address, address + length)`` inside one region."""
        index = bisect_right(self._starts, address) - 1
        if index < 0 or length < 0 or address + length > self._ends[index]:
            raise MemoryAccessError(address, length)
        offset = address - self._starts[index]
        return self._data[index][offset : offset + length]

    def views(self, address: int, length: int) -> list[memoryview]:
        """Return the range as one writable view for each region that it touches."""
        if length < 0:
            raise MemoryAccessError(address, length)
        # All is found before a view is made: an error that keeps its frames would keep those, too.
        found: list[tuple[int, int]] = []
        position, end = address, address + length
        while position < end:
            index = bisect_right(self._starts, position) - 1
            if index < 0 or position >= self._ends[index]:
                raise MemoryAccessError(address, length)
            stop = min(end, self._ends[index])
            found.append((position, stop - position))
            position = stop
        return [self.view(*part) for part in found]

    def release(self) -> None:
        """Drop the views of the buffers, so that they can be closed."""
        for data in self._data:
            data.release()
        self._starts, self._ends, self._data = [], [], []


def _base(region: tuple[int, memoryview]) -> int:
    return region[0]
