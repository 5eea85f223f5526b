"""How processors reach a PCI bus: memory windows, ECAM, and a pair of ports.

PCI Local Bus 3.0 "Configuration Mechanism #1"; PCI Express Base "Enhanced Configuration Access
Mechanism".
"""

from collections.abc import Callable
from typing import Final

from transport.pci.bus import PciBus
from virtio.errors import ConfigurationError

ECAM_BYTES_PER_BUS: Final = 1 << 20

ENABLE: Final = 1 << 31
ADDRESS_BITS: Final = 0x80FF_FFFC
RESET_CONTROL: Final = 1
"""Offset of port 0xcf9 from the first port."""
RESET_SYSTEM: Final = 0x02
RESET_PROCESSORS: Final = 0x04

ADDRESS_MAX: Final = (1 << 32) - 1


class EcamWindow:
    """Configuration space of one bus as memory: 4 KiB for each function."""

    SIZE: Final = ECAM_BYTES_PER_BUS

    def __init__(self, bus: PciBus) -> None:
        self._bus = bus

    def read(self, offset: int, length: int) -> bytes:
        """Return the ``length`` bytes at ``offset``; all ones for an access of another form."""
        return self._bus.read_config(*_split(offset), length)

    def write(self, offset: int, data: bytes) -> None:
        """Take ``data`` at ``offset``; an access of another form is dropped."""
        self._bus.write_config(*_split(offset), data)


class ConfigurationPorts:
    """Eight ports: an address register, and the dword of configuration space that it names.

    Only four bytes at once change the address. One byte at the port after the first is the reset
    control register of PCs: ``on_reset`` is called when it asks for a reset.
    """

    PORT_COUNT: Final = 8

    def __init__(self, bus: PciBus, on_reset: Callable[[], object] = lambda: None) -> None:
        self._bus = bus
        self._on_reset = on_reset
        self._reset_control = 0
        self.address = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return the ``length`` bytes that the guest reads at a port."""
        if (offset, length) == (0, 4):
            return self.address.to_bytes(4, "little")
        if (offset, length) == (RESET_CONTROL, 1):
            return bytes([self._reset_control])
        if offset >= 4 and self.address & ENABLE:
            return self._bus.read_config(*self._target(offset), length)
        return b"\xff" * length

    def write(self, offset: int, data: bytes) -> None:
        """Take what the guest writes to a port."""
        if (offset, len(data)) == (0, 4):
            self.address = int.from_bytes(data, "little") & ADDRESS_BITS
        elif (offset, len(data)) == (RESET_CONTROL, 1):
            self._write_reset_control(data[0])
        elif offset >= 4 and self.address & ENABLE:
            self._bus.write_config(*self._target(offset), data)

    def restore(self, address: int) -> None:
        """Restore an ``address`` that was saved; raises for one that cannot have been there."""
        if not 0 <= address <= ADDRESS_MAX or address & ~ADDRESS_BITS:
            raise ConfigurationError(
                f"saved PCI address: is {address:#x}, must be within {ADDRESS_BITS:#x}"
            )
        self.address = address

    def _target(self, offset: int) -> tuple[int, int, int, int]:
        address = self.address
        register = (address & 0xFC) + (offset & 3)
        return address >> 16 & 0xFF, address >> 11 & 0x1F, address >> 8 & 7, register

    def _write_reset_control(self, value: int) -> None:
        rises = value & ~self._reset_control & RESET_PROCESSORS
        self._reset_control = value & (RESET_SYSTEM | RESET_PROCESSORS)
        if rises:
            self._on_reset()


def _split(offset: int) -> tuple[int, int, int, int]:
    """Return bus, slot, function and register of an offset into ECAM."""
    return offset >> 20, offset >> 15 & 0x1F, offset >> 12 & 7, offset & 0xFFF
