"""The driver's side of a virtio function on a PCI bus, for tests of transports.

All offsets and bits are typed from VIRTIO 1.4 "Virtio Over PCI Bus" and from PCI 3.0, none is the
device's; where a structure is, the driver learns from the capabilities, as any driver does.
"""

from transport.pci.bus import PciBus
from transport.testing.steps import InitializingDriver
from virtio.named_tuple import NamedTuple

COMMON, NOTIFY, ISR, DEVICE, WINDOW = 1, 2, 3, 4, 5


class Structure(NamedTuple):
    """A structure as its capability tells: where in configuration space that stands, what it says.

    ``more`` is what follows the first 16 bytes of the capability.
    """

    capability: int
    bar: int
    offset: int
    length: int
    more: bytes


class PciDriver(InitializingDriver):
    """Drives the virtio function in ``slot`` of a bus, one step at a time.

    The function is found as the machine left it; :meth:`switch_on` gives it an address and lets it
    answer.
    """

    def __init__(self, bus: PciBus, slot: int) -> None:
        self.bus = bus
        self.slot = slot
        self.base = 0
        self.structures: dict[int, Structure] = {}
        self.msix = 0
        for kind, offset in self.capabilities():
            if kind == 0x11:
                self.msix = offset
            elif kind == 0x09:
                self._add_structure(offset)

    # Configuration space

    def config(self, offset: int, width: int = 4) -> int:
        """Return a number from configuration space."""
        return int.from_bytes(self.bus.read_config(0, self.slot, 0, offset, width), "little")

    def set_config(self, offset: int, value: int, width: int = 4) -> None:
        """Write a number to configuration space."""
        self.bus.write_config(0, self.slot, 0, offset, value.to_bytes(width, "little"))

    def capabilities(self) -> list[tuple[int, int]]:
        """Return identifier and offset of each capability; stops after 48, as Linux does."""
        found: list[tuple[int, int]] = []
        offset = self.config(0x34, 1)
        while offset and len(found) < 48:
            found.append((self.config(offset, 1), offset))
            offset = self.config(offset + 1, 1)
        return found

    def _add_structure(self, offset: int) -> None:
        length, kind = self.config(offset + 2, 1), self.config(offset + 3, 1)
        more = bytes(self.config(offset + i, 1) for i in range(16, length))
        bar, start, size = (
            self.config(offset + 4, 1),
            self.config(offset + 8),
            self.config(offset + 12),
        )
        self.structures.setdefault(kind, Structure(offset, bar, start, size, more))

    def switch_on(self, base: int, command: int = 0x6) -> None:
        """Put BAR 0 at ``base``, and write Command: by default memory space and bus master."""
        self.set_config(0x04, 0, 2)
        self.base = base
        self.set_config(0x10, base & 0xFFFF_FFFF)
        self.set_config(0x14, base >> 32)
        self.set_config(0x04, command, 2)

    @property
    def command(self) -> int:
        """The Command register."""
        return self.config(0x04, 2)

    @command.setter
    def command(self, value: int) -> None:
        self.set_config(0x04, value, 2)

    # Structures

    def read_structure(self, kind: int, offset: int, width: int) -> int:
        """Return a number from a structure."""
        place = self.base + self.structures[kind].offset + offset
        return int.from_bytes(self.bus.read(place, width), "little")

    def write_structure(self, kind: int, offset: int, value: int, width: int) -> None:
        """Write a number to a structure."""
        place = self.base + self.structures[kind].offset + offset
        self.bus.write(place, value.to_bytes(width, "little"))

    def common(self, offset: int, width: int) -> int:
        """Return a field of the common configuration."""
        return self.read_structure(COMMON, offset, width)

    def set_common(self, offset: int, value: int, width: int) -> None:
        """Write a field of the common configuration."""
        self.write_structure(COMMON, offset, value, width)

    @property
    def status(self) -> int:
        """The device status."""
        return self.common(0x14, 1)

    @status.setter
    def status(self, value: int) -> None:
        self.set_common(0x14, value, 1)

    @property
    def queue_count(self) -> int:
        """``num_queues``."""
        return self.common(0x12, 2)

    @property
    def isr(self) -> int:
        """The ISR byte; reading it clears it."""
        return self.read_structure(ISR, 0, 1)

    def select(self, queue: int) -> None:
        """Choose the queue that the queue fields speak of."""
        self.set_common(0x16, queue, 2)

    # Initialization

    def offered_features(self) -> int:
        """Return the offered set, of all four words."""
        features = 0
        for word in range(4):
            self.set_common(0x00, word, 4)
            features |= self.common(0x04, 4) << 32 * word
        return features

    def accept_features(self, features: int) -> None:
        """Write the accepted set, all four words of it."""
        for word in range(4):
            self.set_common(0x08, word, 4)
            self.set_common(0x0C, features >> 32 * word & 0xFFFF_FFFF, 4)

    def configure_queue(
        self, index: int, size: int, descriptor_area: int, driver_area: int, device_area: int
    ) -> None:
        """Write size and addresses of a queue."""
        self.select(index)
        self.set_common(0x18, size & 0xFFFF, 2)
        areas = ((0x20, descriptor_area), (0x28, driver_area), (0x30, device_area))
        for offset, address in areas:
            self.set_common(offset, address & 0xFFFF_FFFF, 4)
            self.set_common(offset + 4, address >> 32, 4)

    def set_up_queue(
        self, index: int, size: int, descriptor_area: int, driver_area: int, device_area: int
    ) -> bool:
        """Configure and enable a queue; whether it is enabled then."""
        self.configure_queue(index, size, descriptor_area, driver_area, device_area)
        self.set_common(0x1C, 1, 2)
        return self.common(0x1C, 2) == 1

    def notify_offset(self, index: int) -> int:
        """Return where in the notification structure a queue is notified."""
        self.select(index)
        multiplier = int.from_bytes(self.structures[NOTIFY].more, "little")
        return self.common(0x1E, 2) * multiplier

    def notify(self, index: int) -> None:
        """Tell the device of buffers in a queue."""
        self.write_structure(NOTIFY, self.notify_offset(index), index, 2)

    # MSI-X

    def switch_msix(self, *, enabled: bool = True, masked: bool = False) -> None:
        """Write Message Control: bit 15 is Enable, bit 14 the mask of all vectors."""
        self.set_config(self.msix + 2, enabled << 15 | masked << 14, 2)

    @property
    def vector_count(self) -> int:
        """How many vectors there are."""
        return (self.config(self.msix + 2, 2) & 0x7FF) + 1

    def set_message(self, vector: int, address: int, data: int, *, masked: bool = False) -> None:
        """Write an entry of the table, its mask bit last."""
        entry = self.base + (self.config(self.msix + 4) & ~7) + 16 * vector
        fields = (address & 0xFFFF_FFFF, address >> 32, data, int(masked))
        for offset, value in enumerate(fields):
            self.bus.write(entry + 4 * offset, value.to_bytes(4, "little"))

    def mask(self, vector: int, *, masked: bool = True) -> None:
        """Write the vector control of an entry."""
        entry = self.base + (self.config(self.msix + 4) & ~7) + 16 * vector
        self.bus.write(entry + 12, int(masked).to_bytes(4, "little"))

    def table_entry(self, vector: int) -> tuple[int, int, int]:
        """Return address, data and vector control of an entry."""
        entry = self.base + (self.config(self.msix + 4) & ~7) + 16 * vector
        words = [int.from_bytes(self.bus.read(entry + 4 * i, 4), "little") for i in range(4)]
        return words[0] | words[1] << 32, words[2], words[3]

    @property
    def pending(self) -> int:
        """The pending bits of the first 64 vectors."""
        place = self.base + (self.config(self.msix + 8) & ~7)
        return int.from_bytes(self.bus.read(place, 8), "little")

    def map_config(self, vector: int) -> int:
        """Map configuration changes to a vector, and return what the device has then."""
        self.set_common(0x10, vector, 2)
        return self.common(0x10, 2)

    def map_queue(self, index: int, vector: int) -> int:
        """Map a queue to a vector, and return what the device has then."""
        self.select(index)
        self.set_common(0x1A, vector, 2)
        return self.common(0x1A, 2)
