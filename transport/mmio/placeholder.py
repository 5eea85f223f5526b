"""A window without a device, for one that may be plugged in later.

VIRTIO 1.4 "MMIO Device Register Layout": a device ID of zero is a placeholder, which a driver
leaves alone.
"""

from typing import Final

from transport.mmio.registers import MAGIC, VENDOR, VERSION, VirtioMmio

_REGISTERS: Final = {0x000: MAGIC, 0x004: VERSION, 0x008: 0, 0x00C: VENDOR}


class MmioPlaceholder:
    """Answers for a window of ``WINDOW_SIZE`` bytes in which there is no device."""

    WINDOW_SIZE: Final = VirtioMmio.WINDOW_SIZE

    def read(self, offset: int, length: int) -> bytes:
        """Return the ``length`` bytes that the guest reads at ``offset``."""
        return _REGISTERS.get(offset if length == 4 else -1, 0).to_bytes(length, "little")

    def write(self, offset: int, data: bytes) -> None:
        """Drop the bytes that the guest writes at ``offset``."""
