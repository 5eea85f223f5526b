"""A PCI bus: which function answers a configuration access, and which one a memory access.

PCI Local Bus 3.0 "Configuration Space Decoding", "Memory Space Decoding".
"""

import threading
from collections.abc import Sequence
from typing import Final

from transport.pci.configuration import EXTENDED_BYTES
from transport.pci.function import Claim, PciFunction, overlaps
from virtio.errors import ConfigurationError

DEVICES: Final = 32
FUNCTIONS: Final = 8

# How accesses meet a BAR that moves
#
# A guest moves a BAR, or switches it off, on one processor while others access it. The map of all
# claims is a tuple that is replaced as a whole: an access that began before the change ends at the
# old place, as on a real bus, and none waits. What the machine's kernel does by itself, signal
# notifications, is changed by `placed` under the bus lock, so that two moves cannot mix.
#
# Order of locks: a function's, then the bus's. Under the bus lock another function's `placed` is
# called, which takes neither; its `decoding` is read without a lock.


class PciBus:
    """Bus 0, the only one: up to 32 devices of one function each, in their ``slots``.

    ``windows`` are the ranges of addresses that are passed on to functions, (start, length) each. A
    BAR that does not lie inside one is not seen; where BARs overlap, the lower slot answers
    (``PCI-19``).
    """

    def __init__(self, windows: Sequence[tuple[int, int]]) -> None:
        self.windows = tuple(windows)
        self.slots: dict[int, PciFunction] = {}
        self._lock = threading.Lock()
        self._claims: tuple[Claim, ...] = ()

    def add(self, slot: int, function: PciFunction) -> None:
        """Put a function into a slot; raises :class:`ConfigurationError` for one that is taken."""
        if not 0 <= slot < DEVICES or slot in self.slots:
            raise ConfigurationError(
                f"PCI slot {slot}: must be 0 to {DEVICES - 1} and free;"
                f" taken are {', '.join(map(str, self.slots)) or 'none'}"
            )
        function.on_decoding = self._map
        with self._lock:
            self.slots = dict(sorted({**self.slots, slot: function}.items()))
        self._map()

    def free_slot(self) -> int:
        """Return the lowest slot that is free; raises :class:`ConfigurationError` without one."""
        free = next((slot for slot in range(DEVICES) if slot not in self.slots), None)
        if free is None:
            raise ConfigurationError(f"all {DEVICES} PCI slots are taken: use fewer devices")
        return free

    def remove(self, slot: int) -> None:
        """Take a function out; when this returns it answers nothing any more (``PCI-63``)."""
        with self._lock:
            function = self.slots[slot]
            self.slots = {key: one for key, one in self.slots.items() if key != slot}
            function.placed((None,) * len(function.bars))
        function.on_decoding = lambda: None
        self._map()

    # Configuration space

    def read_config(self, bus: int, slot: int, number: int, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of a function's configuration space.

        All ones where there is no such function, and for an access that is not of 1, 2 or 4 bytes
        or crosses a dword (``PCI-06``, ``PCI-07``).
        """
        function = self._function(bus, slot, number)
        if function is None or not _fits_dword(offset, length):
            return b"\xff" * length
        return function.read_config(offset, length)

    def write_config(self, bus: int, slot: int, number: int, offset: int, data: bytes) -> None:
        """Write a function's configuration space; dropped where a read returns all ones."""
        function = self._function(bus, slot, number)
        if function is not None and _fits_dword(offset, len(data)):
            function.write_config(offset, data)

    def _function(self, bus: int, slot: int, number: int) -> PciFunction | None:
        return self.slots.get(slot) if bus == number == 0 else None

    # Memory space

    def read(self, address: int, length: int) -> bytes:
        """Return what the function that claims ``address`` has there; all ones for nobody."""
        for start, size, region in self._claims:
            if start <= address < start + size:
                if address + length <= start + size:
                    return region.read(address - start, length)
                break
        return b"\xff" * length

    def write(self, address: int, data: bytes) -> None:
        """Hand ``data`` to the function that claims ``address``; nobody's write is dropped."""
        for start, size, region in self._claims:
            if start <= address < start + size:
                if address + len(data) <= start + size:
                    region.write(address - start, data)
                return

    def claims(self) -> list[tuple[int, int]]:
        """Return start and length of each BAR that is seen, the one that comes first, first."""
        return [(start, length) for start, length, _ in self._claims]

    def _map(self) -> None:
        with self._lock:
            seen: list[Claim] = []
            places = []
            for function in self.slots.values():
                decoding = function.decoding
                places.append((function, tuple(self._place(one, seen) for one in decoding.claims)))
                seen += [one for one in decoding.claims if self._passes(one)]
            self._claims = tuple(seen)
            # Those that are not seen any more let go first, as another may stand there now.
            for function, place in sorted(places, key=lambda one: None not in one[1]):
                function.placed(place or (None,) * len(function.bars))

    def _passes(self, claim: Claim) -> bool:
        end = claim.start + claim.length
        return any(start <= claim.start and end <= start + size for start, size in self.windows)

    def _place(self, claim: Claim, taken: Sequence[Claim]) -> int | None:
        hidden = any(overlaps(claim.start, claim.length, *one[:2]) for one in taken)
        return claim.start if self._passes(claim) and not hidden else None


def _fits_dword(offset: int, length: int) -> bool:
    return (
        length in (1, 2, 4) and offset % 4 + length <= 4 and 0 <= offset <= EXTENDED_BYTES - length
    )
