"""Backends whose descriptors native code reads and writes in their place, packet by packet."""

from __future__ import annotations

from abc import abstractmethod

from virtio.named_tuple import NamedTuple
from virtio.net.backend import NetBackend


class Descriptor(NamedTuple):
    """A descriptor that never blocks; each read and write is one packet, as of a tap.

    With ``framed`` it is a stream of frames that are finished, each behind its length in 32 bits,
    big-endian.
    """

    fd: int
    framed: bool


class Lender(NetBackend):
    """A backend that lends its descriptors, one for each queue pair, all under the work lock.

    It tells :meth:`NetEnd.arrived` of what can be read, and reads what that leaves to it. With
    several descriptors it names the pair of each packet that it delivers.
    """

    @abstractmethod
    def descriptor(self, pair: int) -> Descriptor:
        """Return what native code may read and write."""

    @abstractmethod
    def lend_reading(self, pair: int) -> bytes | None:
        """Return what was read of a frame that has not come whole; native code reads on.

        None while packets wait that were read before, or nothing shall be read.
        """

    @abstractmethod
    def return_reading(self, pair: int, data: bytes) -> None:
        """Take what native code has read and not delivered."""

    @abstractmethod
    def read_on(self, pair: int) -> None:
        """Deliver what waits, or else what can be read."""

    @abstractmethod
    def lends_writing(self, pair: int) -> bool:
        """Whether native code may write: nothing that was sent before waits for room."""

    @abstractmethod
    def return_writing(self, pair: int, data: bytes) -> None:
        """Write what native code could not; :meth:`NetEnd.space` is called when it is written."""
