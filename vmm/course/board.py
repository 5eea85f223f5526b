"""A virtio device at its registers, without a guest: what a driver of chapter 12 talks to."""

from typing import Final, Self

from transport import VirtioMmio
from transport.testing import RecordingLine
from virtio import VirtioDevice
from virtio.testing import ManualLoop, flat_memory

MEMORY_BYTES: Final = 0x10000


class Board:
    """Memory, and the registers of one device, as virtio-mmio has them.

    ``memory`` is indexed by guest-physical address. ``read`` and ``write`` are the accesses of 32
    bits that a guest's load and store would be; the device has served a kick when ``write``
    returns.
    """

    def __init__(self, device: VirtioDevice) -> None:
        ram = flat_memory((0, MEMORY_BYTES))
        self.memory = ram.view(0, MEMORY_BYTES)
        self.line = RecordingLine()
        self._transport = VirtioMmio(device, ram, self.line, ManualLoop())

    def __enter__(self) -> Self:
        self._transport.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    def read(self, offset: int) -> int:
        """Return a register."""
        return int.from_bytes(self._transport.read(offset, 4), "little")

    def write(self, offset: int, value: int) -> None:
        """Write a register."""
        self._transport.write(offset, (value & 0xFFFF_FFFF).to_bytes(4, "little"))
        self._transport.service()
