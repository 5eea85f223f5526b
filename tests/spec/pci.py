"""A device on its virtio-pci transport, in a slot of a bus, with a driver for all of it.

Also the same driver in the words of virtio-mmio, for tests that hold for both transports.
"""

from typing import ClassVar
from weakref import WeakKeyDictionary

from tests.spec.rig import Rig
from transport.line import InterruptLine
from transport.pci.bus import PciBus
from transport.pci.host_bridge import host_bridge
from transport.pci.registers import VirtioPci
from transport.pci.virtio_function import VirtioFunction
from transport.testing import MmioDriver, PciDriver, RecordingMessages
from virtio.device.lifecycle import VirtioDevice
from virtio.memory import FlatMemory

LOW_WINDOW = (0xC100_0000, 0x2DC0_0000)
HIGH_WINDOW = (0x40_0000_0000, 0x40_0000_0000)
BASE = 0xC200_0000
SLOT = 3
MESSAGE = 0xFEE0_0000


class RecordingNotifications:
    """Remembers which eventfd is signalled by a write to which address.

    ``taken`` are the addresses of all functions of a machine, at each of which KVM has one eventfd.
    """

    def __init__(self, taken: set[int]) -> None:
        self.attached: dict[int, int] = {}
        self._taken = taken

    def attach(self, eventfd: int, address: int) -> None:
        """Remember one; a second one at an address would be a mistake."""
        assert address not in self._taken, f"two eventfds at {address:#x}"
        self._taken.add(address)
        self.attached[address] = eventfd

    def detach(self, eventfd: int, address: int) -> None:
        """Forget it."""
        assert self.attached.pop(address) == eventfd
        self._taken.remove(address)


_taken: WeakKeyDictionary[PciBus, set[int]] = WeakKeyDictionary()
"""The addresses of notifications of each machine, which has one bus."""


class MmioWords(MmioDriver):
    """Drives a virtio-pci device by the register numbers of virtio-mmio.

    What was read of ISR stays in ``interrupt_status`` until it is acknowledged.
    """

    FIELDS: ClassVar = {
        0x10: (0x04, 4),
        0x14: (0x00, 4),
        0x20: (0x0C, 4),
        0x24: (0x08, 4),
        0x30: (0x16, 2),
        0x34: (0x18, 2),
        0x38: (0x18, 2),
        0x44: (0x1C, 2),
        0x70: (0x14, 1),
        0xC0: (0x3A, 2),
        0xFC: (0x15, 1),
        **{
            0x80 + 16 * area + half: (0x20 + 8 * area + half, 4)
            for area in (0, 1, 2)
            for half in (0, 4)
        },
    }

    def __init__(self, pci: PciDriver) -> None:
        self.pci = pci
        self.seen = 0

    def read(self, offset: int) -> int:
        """Return the field that has the meaning of a register; 0 for one that PCI does not have."""
        if offset == 0x08:
            return self.pci.config(0x02, 2) - 0x1040
        if offset == 0x60:
            self.seen |= self.pci.isr
            return self.seen
        return self.pci.common(*self.FIELDS[offset]) if offset in self.FIELDS else 0

    def write(self, offset: int, value: int) -> None:
        """Write the field that has the meaning of a register."""
        if offset == 0x50:
            if value < self.pci.queue_count:
                self.pci.notify(value)
        elif offset == 0x64:
            self.seen = (self.seen | self.pci.isr) & ~value
        elif offset == 0x70 and value == 0:
            self.seen = 0
            self.pci.status = 0
        elif offset in self.FIELDS:
            field, width = self.FIELDS[offset]
            self.pci.set_common(field, value & (1 << 8 * width) - 1, width)


class PciRig(Rig):
    """A device in slot 3 of a bus, switched on at ``BASE``.

    ``pci`` drives it, and ``driver`` does the same in the words of virtio-mmio. ``messages`` are
    what MSI-X sent, ``line`` is INTx unless another one is given, ``notifications`` what the
    machine signals by itself.
    """

    def __init__(
        self,
        device: VirtioDevice,
        memory: FlatMemory | None = None,
        bus: PciBus | None = None,
        line: InterruptLine | None = None,
    ) -> None:
        self.wire = line
        self.bus = bus or make_bus()
        self.slot = SLOT if bus is None else bus.free_slot()
        super().__init__(device, memory)

    def plug_in(self) -> None:
        """Put the device on its transport, and that on the bus."""
        self.messages = RecordingMessages()
        self.notifications = RecordingNotifications(_taken.setdefault(self.bus, set()))
        self.window = VirtioPci(
            self.device, self.memory, self.messages, self.wire or self.line, self.loop, name="rig"
        )
        self.transport = self.window
        self.function = VirtioFunction(self.window, self.notifications)
        self.bus.add(self.slot, self.function)
        self.pci = PciDriver(self.bus, self.slot)
        self.driver = MmioWords(self.pci)
        self.switch_on()

    def switch_on(self, base: int | None = None) -> None:
        """Let the function answer, at a place of its own by default, and reach for memory."""
        self.pci.switch_on(BASE + 0x1_0000 * self.slot if base is None else base)

    def use_msix(self) -> None:
        """Switch MSI-X on, with a vector for the configuration and one for each queue.

        Vector 0 is that of the configuration; each has its number as data.
        """
        for vector in range(self.pci.vector_count):
            self.pci.set_message(vector, MESSAGE | vector << 12, 0x40 + vector)
        self.pci.switch_msix()
        assert self.pci.map_config(0) == 0
        for index in self.present_queues():
            assert self.pci.map_queue(index, index + 1) == index + 1

    def start_with_msix(self, features: int = 0) -> None:
        """Take the device to DRIVER_OK, with a vector for each event."""
        self.prepare(features)
        self.use_msix()
        self.driver.go_live()
        self.transport.service()

    def read_config(self, offset: int, length: int) -> bytes:
        """Return bytes of the device's configuration space, read at once."""
        return self.pci.read_structure(4, offset, length).to_bytes(length, "little")

    def write_config(self, offset: int, data: bytes) -> None:
        """Write the device's configuration space at once."""
        self.pci.write_structure(4, offset, int.from_bytes(data, "little"), len(data))

    def read_bar(self, offset: int, width: int) -> bytes:
        """Return bytes behind BAR 0, as a processor reads them."""
        return self.bus.read(self.pci.base + offset, width)

    def write_bar(self, offset: int, data: bytes) -> None:
        """Write bytes behind BAR 0."""
        self.bus.write(self.pci.base + offset, data)

    def close(self) -> None:
        """Take the device from its bus, and close it."""
        if self.bus.slots.get(self.slot) is self.function:
            self.bus.remove(self.slot)
        super().close()


def make_bus() -> PciBus:
    """Return a bus with a host bridge, and the windows of a PC."""
    bus = PciBus([LOW_WINDOW, HIGH_WINDOW])
    bus.add(0, host_bridge())
    return bus
