"""The PCI function of a virtio device: its configuration space joined with its registers.

VIRTIO 1.4 "PCI Device Discovery", "PCI configuration access capability".
"""

from typing import Final, Protocol

from transport.pci import layout
from transport.pci.configuration import (
    PCI_COMMAND,
    PCI_COMMAND_MASTER,
    PCI_INTERRUPT_PIN,
    PCI_STATUS,
    PCI_STATUS_CAP_LIST,
    PCI_STATUS_INTERRUPT,
    Identity,
)
from transport.pci.function import FunctionState, PciFunction, overlaps
from transport.pci.registers import VirtioPci
from virtio.errors import ConfigurationError

PCI_VENDOR_ID_REDHAT_QUMRANET: Final = 0x1AF4
FIRST_DEVICE: Final = 0x1040
PIN_A: Final = 1
_MESSAGE_CONTROL: Final = 2

OTHER_CLASS: Final = 0x00FF00
CLASSES: Final = {
    1: 0x020000,
    2: 0x018000,
    3: 0x078000,
    8: 0x010000,
    19: 0x078000,
    26: 0x018000,
}
"""Class codes by device type, for people; drivers look at the ids alone."""


class Notifications(Protocol):
    """Has the machine signal a queue's eventfd by itself when the guest writes to an address."""

    def attach(self, eventfd: int, address: int) -> None:
        """Signal ``eventfd`` at each write to ``address`` from now on, in place of an access."""

    def detach(self, eventfd: int, address: int) -> None:
        """Stop that."""


class NoNotifications:
    """Leaves all notifications to the registers."""

    def attach(self, eventfd: int, address: int) -> None:
        """Do nothing."""

    def detach(self, eventfd: int, address: int) -> None:
        """Do nothing."""


class VirtioFunction(PciFunction):
    """A function with one virtio device behind BAR 0.

    ``notifications`` are told where each queue is notified, as long as the guest lets the function
    answer there and reach for memory; else notifications come through the registers.
    """

    def __init__(self, transport: VirtioPci, notifications: Notifications) -> None:
        kind = transport.device.device_id
        device = FIRST_DEVICE + kind
        super().__init__(
            Identity(
                PCI_VENDOR_ID_REDHAT_QUMRANET,
                device,
                CLASSES.get(kind, OTHER_CLASS),
                subsystem_vendor=PCI_VENDOR_ID_REDHAT_QUMRANET,
                subsystem=device,
            )
        )
        self.transport = transport
        self.bar = self.add_bar(layout.BAR, layout.BAR_BYTES, transport)
        self.space.put(PCI_INTERRUPT_PIN, bytes([PIN_A]))
        self._capabilities = layout.add_capabilities(
            self.space, len(transport.queue_registers), transport.msix.vectors.count
        )
        self._notifications = notifications
        self._attached: int | None = None

    # Configuration space

    def _before_read(self, offset: int, length: int) -> None:
        if overlaps(offset, length, PCI_STATUS, 1):
            interrupt = PCI_STATUS_INTERRUPT if self.transport.msix.asserts else 0
            self.space.put(PCI_STATUS, bytes([PCI_STATUS_CAP_LIST | interrupt]))
        data = self._capabilities.window + layout.WINDOW_DATA
        if overlaps(offset, length, data, 4) and (target := self._window_target()):
            self.space.put(data, self.transport.read(*target))

    def _after_write(self, offset: int, length: int) -> None:
        if overlaps(offset, length, PCI_COMMAND, 2) or overlaps(offset, length, self._control, 2):
            self._settle()
        data = self._capabilities.window + layout.WINDOW_DATA
        if overlaps(offset, length, data, 4) and (target := self._window_target()):
            self.transport.write(target[0], self.space.read(data, target[1]))

    def _settle(self) -> None:
        message_control = self.space.number(self._control, 2)
        bus_master = bool(self.command & PCI_COMMAND_MASTER)
        if not bus_master:  # no message may tell of what is written after it
            self.transport.pause(paused=True)
        self.transport.msix.set_control(self.command, message_control)
        if bus_master:
            self.transport.pause(paused=False)

    @property
    def _control(self) -> int:
        """The offset of Message Control of MSI-X."""
        return self._capabilities.msix + _MESSAGE_CONTROL

    def _window_target(self) -> tuple[int, int] | None:
        """Return offset and length of the access that the window asks for, if there is such one.

        Without one, ``pci_cfg_data`` reads 0 and takes no write (``PCI-60``).
        """
        window, number = self._capabilities.window, self.space.number
        bar = number(window + layout.WINDOW_BAR, 1)
        offset = number(window + layout.WINDOW_OFFSET, 4)
        length = number(window + layout.WINDOW_LENGTH, 4)
        aligned = length in (1, 2, 4) and offset % length == 0
        if bar != layout.BAR or not aligned or not self.transport.in_structure(offset, length):
            self.space.put(window + layout.WINDOW_DATA, bytes(4))
            return None
        return offset, length

    # Memory space

    def placed(self, addresses: tuple[int | None, ...]) -> None:
        """Have queues notified without an access where BAR 0 is seen now (``PCI-17``)."""
        address = addresses[0] if self.decoding.bus_master else None
        if address == self._attached:
            return
        for attach, base in ((False, self._attached), (True, address)):
            for queue in self.transport.queues if base is not None else ():
                place = (base or 0) + self.transport.notify_offset(queue.index)
                if attach:
                    self._notifications.attach(queue.notify_fd, place)
                else:
                    self._notifications.detach(queue.notify_fd, place)
        self._attached = address

    # State

    def state(self) -> FunctionState:
        """Return what the guest has set, and how far the configuration generation is."""
        return FunctionState(self.space.contents, self.transport.generation.state())

    def _restore(self, state: FunctionState) -> None:
        if state.generation is None:
            raise ConfigurationError(
                f"saved {self.transport.name}: has no configuration generation"
            )
        self.transport.generation.restore(state.generation)
        super()._restore(state)
