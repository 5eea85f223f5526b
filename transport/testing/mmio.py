"""The driver's side of virtio-mmio registers, for tests of transports.

The driver has its own copy of every register offset and status bit, typed from VIRTIO 1.4 "MMIO
Device Register Layout": what it shared with the transport it could not check.
"""

from transport.mmio.registers import VirtioMmio
from transport.testing.steps import InitializingDriver


class MmioDriver(InitializingDriver):
    """The driver's side of the registers of a virtio-mmio device, one step at a time."""

    def __init__(self, transport: VirtioMmio) -> None:
        self.transport = transport

    def read(self, offset: int) -> int:
        """Return a 32-bit register."""
        return int.from_bytes(self.transport.read(offset, 4), "little")

    def write(self, offset: int, value: int) -> None:
        """Write a 32-bit register."""
        self.transport.write(offset, value.to_bytes(4, "little"))

    @property
    def status(self) -> int:
        """The device status."""
        return self.read(0x70)

    @status.setter
    def status(self, value: int) -> None:
        self.write(0x70, value)

    @property
    def interrupt_status(self) -> int:
        """Bit 0: used buffers; bit 1: the configuration changed."""
        return self.read(0x60)

    def acknowledge(self, bits: int) -> None:
        """Clear bits of the interrupt status."""
        self.write(0x64, bits)

    def offered_features(self) -> int:
        """Return the offered set, of all four words."""
        features = 0
        for word in range(4):
            self.write(0x14, word)
            features |= self.read(0x10) << 32 * word
        return features

    def accept_features(self, features: int) -> None:
        """Write the accepted set, all four words of it."""
        for word in range(4):
            self.write(0x24, word)
            self.write(0x20, features >> 32 * word & 0xFFFF_FFFF)

    def set_up_queue(
        self, index: int, size: int, descriptor_area: int, driver_area: int, device_area: int
    ) -> bool:
        """Configure and enable a queue; whether it is enabled then."""
        self.write(0x30, index)
        self.write(0x38, size)
        areas = ((0x80, descriptor_area), (0x90, driver_area), (0xA0, device_area))
        for offset, address in areas:
            self.write(offset, address & 0xFFFF_FFFF)
            self.write(offset + 4, address >> 32)
        self.write(0x44, 1)
        return self.read(0x44) == 1

    def notify(self, index: int) -> None:
        """Tell the device of buffers in a queue."""
        self.write(0x50, index)
