"""A PCI function with a header of type 0: its configuration space, and what its writes set off.

PCI Local Bus 3.0 "Device Control", "Base Addresses".
"""

import threading
from collections.abc import Callable
from typing import Annotated, Protocol

from transport.pci.bar import MemoryBar
from transport.pci.configuration import (
    PCI_COMMAND,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    ConfigurationSpace,
    Identity,
)
from transport.pci.generation import GenerationState
from virtio.named_tuple import NamedTuple
from virtio.saved import Length, check_saved


class Region(Protocol):
    """What answers behind a BAR; offsets are in bytes from its start."""

    def read(self, offset: int, length: int) -> bytes:
        """Return the ``length`` bytes at ``offset``."""

    def write(self, offset: int, data: bytes) -> None:
        """Take ``data`` at ``offset``."""


class Claim(NamedTuple):
    """Addresses that a function answers for: the start of a BAR, its length, what is behind it."""

    start: int
    length: int
    region: Region


class Decoding(NamedTuple):
    """What a function answers for, and whether it may reach for the guest's memory."""

    claims: tuple[Claim, ...]
    bus_master: bool


class FunctionState(NamedTuple):
    """The 256 bytes of configuration space, of which those count that a guest may write.

    ``generation`` is that of a virtio device.
    """

    configuration: Annotated[bytes, Length(256, 256)]
    generation: GenerationState | None = None


class PciFunction:
    """One function of a device; ``bars`` are its BARs, each with what is behind it.

    Configuration accesses come from all virtual CPUs, and one lock makes them one at a time
    (``PCI-21``). ``on_decoding`` is called with that lock held after ``decoding`` changed; who
    reads ``decoding`` needs no lock, as it is replaced as a whole.
    """

    def __init__(self, identity: Identity) -> None:
        self.space = ConfigurationSpace(identity)
        self.bars: list[tuple[MemoryBar, Region]] = []
        self.decoding = Decoding((), bus_master=False)
        self.on_decoding: Callable[[], None] = lambda: None
        self._lock = threading.Lock()

    def add_bar(self, index: int, size: int, region: Region) -> MemoryBar:
        """Give the function a 64-bit BAR behind which ``region`` answers."""
        bar = MemoryBar(self.space, index, size)
        self.bars.append((bar, region))
        return bar

    def read_config(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of configuration space, which lie within one dword."""
        with self._lock:
            self._before_read(offset, length)
            return self.space.read(offset, length)

    def write_config(self, offset: int, data: bytes) -> None:
        """Take a write to configuration space, within one dword; returns when it took effect."""
        with self._lock:
            self.space.write(offset, data)
            self._after_write(offset, len(data))
            self._decode()

    @property
    def command(self) -> int:
        """The Command register."""
        return self.space.number(PCI_COMMAND, 2)

    def placed(self, addresses: tuple[int | None, ...]) -> None:
        """Hear where each BAR is seen now, None for nowhere; the lock of the bus is held.

        A BAR is told as not seen also while a part of it is hidden by another function's.
        """

    def state(self) -> FunctionState:
        """Return what the guest has set."""
        return FunctionState(self.space.contents)

    def restore(self, state: FunctionState) -> None:
        """Restore what :meth:`state` returned.

        Raises :class:`ConfigurationError` for a state of another form.
        """
        check_saved("PCI function", state)
        with self._lock:
            self._restore(state)
            self._decode()

    def _restore(self, state: FunctionState) -> None:
        self.space.restore(state.configuration)
        self._settle()

    def _before_read(self, offset: int, length: int) -> None:
        """Store what changes by itself, where ``length`` bytes at ``offset`` are about to be read.

        A function that has such registers overrides this.
        """

    def _after_write(self, offset: int, length: int) -> None:
        """Carry out what a write to ``length`` bytes at ``offset`` asks for, if anything."""

    def _settle(self) -> None:
        """Do as the registers say that hold for as long as they stand."""

    def _decode(self) -> None:
        """Find out what the function answers for now, and tell when that changed."""
        claims: tuple[Claim, ...] = ()
        if self.command & PCI_COMMAND_MEMORY:
            claims = tuple(Claim(bar.address, bar.size, region) for bar, region in self.bars)
        decoding = Decoding(claims, bool(self.command & PCI_COMMAND_MASTER))
        if decoding != self.decoding:
            self.decoding = decoding
            self.on_decoding()


def overlaps(offset: int, length: int, start: int, size: int) -> bool:
    """Whether ``length`` bytes at ``offset`` have a byte in common with ``size`` at ``start``.

    >>> overlaps(2, 4, 4, 4), overlaps(0, 4, 4, 4)
    (True, False)
    """
    return offset < start + size and start < offset + length
