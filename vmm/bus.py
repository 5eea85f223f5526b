"""An address space of devices: which device answers an access, and at which offset.

One bus serves port I/O and another one memory-mapped I/O, after KVM could not answer an access
itself (KVM api.rst "KVM_EXIT_IO", "KVM_EXIT_MMIO").
"""

from bisect import bisect_right
from collections import Counter
from typing import Protocol

from virtio.errors import ConfigurationError

MAX_UNCLAIMED_ADDRESSES = 256
OTHER_ADDRESSES = -1


class BusDevice(Protocol):
    """A device on a bus; offsets and lengths are in bytes, from its first address."""

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; an access that makes no sense reads as ones."""

    def write(self, offset: int, data: bytes) -> None:
        """Take ``data``; a write that makes no sense is ignored."""


_Range = tuple[int, int, int, BusDevice, str]


class Bus:
    """Dispatches accesses to the devices added; ``name`` appears in messages (``"port I/O"``).

    An address without a device reads as ones, as on a bus whose data lines float high, and ignores
    writes. The same holds for an access that does not lie wholly inside one device. ``unclaimed``
    counts such accesses by address; after ``MAX_UNCLAIMED_ADDRESSES`` addresses, further ones share
    the key ``OTHER_ADDRESSES``, so that a guest cannot make the table grow. vCPUs that access the
    bus at the same moment may lose a count.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.unclaimed: Counter[int] = Counter()
        # Replaced as a whole, so that a vCPU never sees the two lists out of step.
        self._map: tuple[list[int], list[_Range]] = ([], [])

    def add(self, base: int, length: int, device: BusDevice, name: str, offset: int = 0) -> None:
        """Give ``[base, base + length)`` to ``device``, which sees ``base`` as ``offset``.

        Raises ConfigurationError when the range is empty, negative or already taken.
        """
        if base < 0 or length <= 0:
            raise ConfigurationError(
                f"{self.name}: {name} at {base:#x} has length {length}; "
                "the base must not be negative and the length at least 1"
            )
        new: _Range = (base, base + length, offset - base, device, name)
        for taken in self._map[1]:
            if base < taken[1] and taken[0] < base + length:
                raise ConfigurationError(
                    f"{self.name}: {_describe(new)} overlaps {_describe(taken)}; move one of them"
                )
        ranges = sorted([*self._map[1], new], key=lambda entry: entry[0])
        self._map = ([entry[0] for entry in ranges], ranges)

    def replace(self, base: int, device: BusDevice, name: str) -> None:
        """Let ``device`` answer in place of the one whose range begins at ``base``.

        An access that began before ends at the old one. Raises ConfigurationError where no range
        begins.
        """
        bases, ranges = self._map
        if base not in bases:
            raise ConfigurationError(f"{self.name}: {name} at {base:#x}: no device begins there")
        self._map = (
            bases,
            [(*one[:3], device, name) if one[0] == base else one for one in ranges],
        )

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes from whoever owns ``address``, ones when nobody does."""
        bases, ranges = self._map
        index = bisect_right(bases, address)
        if index:
            _, end, delta, device, _ = ranges[index - 1]
            if address + length <= end:
                return device.read(address + delta, length)
        self._count_unclaimed(address)
        return b"\xff" * length

    def write(self, address: int, data: bytes) -> None:
        """Hand ``data`` to whoever owns ``address``; nobody's write is ignored."""
        bases, ranges = self._map
        index = bisect_right(bases, address)
        if index:
            _, end, delta, device, _ = ranges[index - 1]
            if address + len(data) <= end:
                device.write(address + delta, data)
                return
        self._count_unclaimed(address)

    def ranges(self) -> list[tuple[int, int, str]]:
        """Return ``(base, length, name)`` of every range, by ascending base."""
        return [(base, end - base, name) for base, end, _, _, name in self._map[1]]

    def _count_unclaimed(self, address: int) -> None:
        if address not in self.unclaimed and len(self.unclaimed) >= MAX_UNCLAIMED_ADDRESSES:
            address = OTHER_ADDRESSES
        self.unclaimed[address] += 1


def _describe(entry: _Range) -> str:
    return f"{entry[4]} at {entry[0]:#x}-{entry[1] - 1:#x}"
