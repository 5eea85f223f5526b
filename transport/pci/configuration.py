"""The configuration space of a PCI function: bytes, of which a guest may write some.

PCI Local Bus 3.0 "Configuration Space Organization"; names are those of ``linux/pci_regs.h``.
"""

import struct
from typing import Final

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple

PCI_COMMAND: Final = 0x04
PCI_STATUS: Final = 0x06
PCI_CACHE_LINE_SIZE: Final = 0x0C
PCI_BASE_ADDRESS_0: Final = 0x10
PCI_CAPABILITY_LIST: Final = 0x34
PCI_INTERRUPT_LINE: Final = 0x3C
PCI_INTERRUPT_PIN: Final = 0x3D
PCI_STD_HEADER_END: Final = 0x40

PCI_COMMAND_IO: Final = 0x001
PCI_COMMAND_MEMORY: Final = 0x002
PCI_COMMAND_MASTER: Final = 0x004
PCI_COMMAND_PARITY: Final = 0x040
PCI_COMMAND_SERR: Final = 0x100
PCI_COMMAND_INTX_DISABLE: Final = 0x400
PCI_STATUS_INTERRUPT: Final = 0x08
PCI_STATUS_CAP_LIST: Final = 0x10

SPACE_BYTES: Final = 0x100
EXTENDED_BYTES: Final = 0x1000

_COMMAND_BITS: Final = (
    PCI_COMMAND_IO
    | PCI_COMMAND_MEMORY
    | PCI_COMMAND_MASTER
    | PCI_COMMAND_PARITY
    | PCI_COMMAND_SERR
    | PCI_COMMAND_INTX_DISABLE
)
_IDS = struct.Struct("<HH")
_CLASS = struct.Struct("<I")


class Identity(NamedTuple):
    """Who a function is: 16-bit ids, and class, subclass and interface as one 24-bit number."""

    vendor: int
    device: int
    class_code: int
    revision: int = 1
    subsystem_vendor: int = 0
    subsystem: int = 0


class ConfigurationSpace:
    """The first 256 bytes of a function: a header of type 0, and a list of capabilities.

    Writes change only what is marked as writable; everything else keeps its value (``PCI-03``).
    """

    def __init__(self, identity: Identity) -> None:
        self._bytes = bytearray(SPACE_BYTES)
        self._writable = bytearray(SPACE_BYTES)
        self._end = PCI_STD_HEADER_END
        self._link = PCI_CAPABILITY_LIST
        self.put(0x00, _IDS.pack(identity.vendor, identity.device))
        self.put(0x08, _CLASS.pack(identity.class_code << 8 | identity.revision))
        self.put(0x2C, _IDS.pack(identity.subsystem_vendor, identity.subsystem))
        self.make_writable(PCI_COMMAND, _COMMAND_BITS.to_bytes(2, "little"))
        self.make_writable(PCI_CACHE_LINE_SIZE, b"\xff")
        self.make_writable(PCI_INTERRUPT_LINE, b"\xff")

    def put(self, offset: int, data: bytes) -> None:
        """Store ``data``, as the device does: also where the guest may not write."""
        self._bytes[offset : offset + len(data)] = data

    def make_writable(self, offset: int, bits: bytes) -> None:
        """Let the guest change the bits that are set in ``bits``."""
        self._writable[offset : offset + len(bits)] = bits

    def add_capability(self, kind: int, body: bytes, writable: bytes = b"") -> int:
        """Append a capability to the list and return its offset.

        ``body`` is what follows ``kind`` and the link; ``writable`` marks bits of it. Raises
        :class:`ConfigurationError` when the space is used up.
        """
        offset = -(-self._end // 4) * 4
        self._end = offset + 2 + len(body)
        if self._end > SPACE_BYTES:
            raise ConfigurationError(f"PCI capability {kind:#x}: no room is left for it")
        self.put(self._link, bytes([offset]))
        self.put(PCI_STATUS, bytes([PCI_STATUS_CAP_LIST]))
        self.put(offset, bytes([kind, 0]) + body)
        self.make_writable(offset + 2, writable)
        self._link = offset + 1
        return offset

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes; zeros past the end, where extended capabilities would be."""
        return bytes(self._bytes[offset : offset + length]).ljust(length, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Store the bits of ``data`` that are writable."""
        for index, byte in enumerate(data, offset):
            if index < SPACE_BYTES:
                bits = self._writable[index]
                self._bytes[index] = self._bytes[index] & ~bits | byte & bits

    def number(self, offset: int, length: int) -> int:
        """Return the little-endian number at ``offset``."""
        return int.from_bytes(self.read(offset, length), "little")

    @property
    def contents(self) -> bytes:
        """All 256 bytes."""
        return bytes(self._bytes)

    def restore(self, contents: bytes) -> None:
        """Store what of ``contents`` a guest may have written; the rest stays as it is."""
        self.write(0, contents)
