"""A base address register: where in memory a function answers, as far as the guest decides it.

PCI Local Bus 3.0 "Base Addresses".
"""

from typing import Final

from transport.pci.configuration import PCI_BASE_ADDRESS_0, ConfigurationSpace
from virtio.errors import ConfigurationError

PCI_BASE_ADDRESS_MEM_TYPE_64: Final = 0x4
PCI_BASE_ADDRESS_MEM_PREFETCH: Final = 0x8

ADDRESS_BITS: Final = 64
FLAG_BITS: Final = 0xF


class MemoryBar:
    """A 64-bit memory BAR of ``size`` bytes, in registers ``index`` and ``index`` + 1.

    The address is kept in configuration space, where the bits below ``size`` cannot be written:
    that alone makes sizing work, half by half and with any width (``PCI-15``). Raises
    :class:`ConfigurationError` for a size that no BAR can have.
    """

    def __init__(
        self, space: ConfigurationSpace, index: int, size: int, *, prefetchable: bool = False
    ) -> None:
        if size < 16 or size & (size - 1):
            raise ConfigurationError(
                f"BAR {index} of {size} bytes: must be a power of two and at least 16"
            )
        self.index = index
        self.size = size
        self._space = space
        self._offset = PCI_BASE_ADDRESS_0 + 4 * index
        flags = PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH * prefetchable
        space.put(self._offset, flags.to_bytes(8, "little"))
        changeable = (1 << ADDRESS_BITS) - size
        space.make_writable(self._offset, changeable.to_bytes(8, "little"))

    @property
    def address(self) -> int:
        """Where the guest put it."""
        return self._space.number(self._offset, 8) & ~FLAG_BITS

    def place(self, address: int) -> None:
        """Put it somewhere before the guest starts, as a firmware does."""
        self._space.write(self._offset, address.to_bytes(8, "little"))
