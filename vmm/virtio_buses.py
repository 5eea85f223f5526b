"""The buses of a machine on which virtio devices are: windows of virtio-mmio, and perhaps PCI."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from transport.core import VirtioTransport
from transport.mmio.placeholder import MmioPlaceholder
from transport.mmio.registers import VirtioMmio
from virtio.device.lifecycle import EventLoop, VirtioDevice
from virtio.errors import InternalError
from vmm.bus import Bus
from vmm.kvm.irqfd import IrqfdLine
from vmm.kvm.vm import Vm
from vmm.memory import GuestRam
from vmm.slots import Slot
from vmm.x86 import VirtioMmioWindow, virtio_mmio_window

if TYPE_CHECKING:
    from transport.pci.function import FunctionState
    from vmm.x86 import PciHost

_NOBODY: Final = "spare slot"


class VirtioBuses:
    """Puts devices into the slots of a machine, and takes them out; ``mmio`` is its whole bus.

    ``windows`` are those of virtio-mmio, by the number of their slots, ``pci_slots`` the numbers
    of those on PCI.
    """

    def __init__(self, vm: Vm, ram: GuestRam, mmio: Bus, pci: PciHost | None) -> None:
        self._vm = vm
        self._ram = ram
        self._mmio = mmio
        self._pci = pci
        self._nobody = MmioPlaceholder()
        self.windows: list[VirtioMmioWindow] = []
        self.pci_slots: list[int] = []

    def add_slot(self, slot: Slot) -> None:
        """Make a slot, with no device in it yet; those of a bus come in ascending order.

        Raises :class:`ConfigurationError` when the bus has no room for more.
        """
        if slot.transport == "pci":
            self.pci_slots.append(slot.number)
            return
        window = virtio_mmio_window(slot.number, beside_pci=self._pci is not None)
        self._mmio.add(window.address, MmioPlaceholder.WINDOW_SIZE, self._nobody, _NOBODY)
        self.windows.append(window)

    def attach(
        self, attached: AttachedDevice, device: VirtioDevice, loop: EventLoop, poll_us: int
    ) -> None:
        """Put a device into its slot, where the guest finds it from now on.

        After an error the caller takes it out again.
        """
        attach = self._attach_to_pci if attached.slot.transport == "pci" else self._attach_to_mmio
        transport = attached.transport = attach(attached, device, loop, poll_us)
        for queue in transport.queues:
            loop.add_reader(queue.notify_fd, queue.serve)
            attached.connections.callback(loop.remove_reader, queue.notify_fd)

    def function_state(self, slot: Slot) -> FunctionState | None:
        """Return what the guest has set of a device's PCI function; None on another transport."""
        if self._pci is None or slot.transport != "pci":
            return None
        return self._pci.bus.slots[slot.number].state()

    def restore_function(self, slot: Slot, state: FunctionState | None) -> None:
        """Set it so for the device that is there now, before its transport is restored."""
        if self._pci is not None and state is not None:
            self._pci.bus.slots[slot.number].restore(state)

    def bar_address(self, slot: Slot) -> int | None:
        """Return where a device on PCI has its BAR 0 now, for who names what is there."""
        if self._pci is None or slot.transport != "pci":
            return None
        return self._pci.bar_address(slot.number)

    def _attach_to_mmio(
        self, attached: AttachedDevice, device: VirtioDevice, loop: EventLoop, poll_us: int
    ) -> VirtioTransport:
        name, window = attached.slot.device, self.windows[attached.slot.number]
        line = IrqfdLine(self._vm, window.irq)
        attached.resources.callback(line.close)
        transport = VirtioMmio(device, self._ram, line, loop, name=name, poll_us=poll_us)
        attached.resources.enter_context(transport)
        notify = window.address + VirtioMmio.QUEUE_NOTIFY
        for queue in transport.queues:
            place = (queue.notify_fd, notify, 4, queue.index)
            self._vm.attach_ioeventfd(*place)
            attached.connections.callback(self._vm.detach_ioeventfd, *place)
        self._mmio.replace(window.address, transport, name)
        attached.connections.callback(self._mmio.replace, window.address, self._nobody, _NOBODY)
        return transport

    def _attach_to_pci(
        self, attached: AttachedDevice, device: VirtioDevice, loop: EventLoop, poll_us: int
    ) -> VirtioTransport:
        name, number = attached.slot.device, attached.slot.number
        if self._pci is None:
            raise InternalError(f"{name} is to be on PCI, which this machine has not")
        transport = self._pci.attach(number, device, self._ram, loop, name, poll_us)
        attached.resources.enter_context(transport)
        attached.connections.callback(self._pci.detach, number)
        return transport


class AttachedDevice:
    """A device in its ``slot``, behind its ``transport``, with what it has of the host.

    When the machine ends it is enough to close the ``resources``; to take the device out of one
    that runs, its ``connections`` are undone first. Each costs a grace period of KVM.
    """

    transport: VirtioTransport

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.resources = ExitStack()
        self.connections = ExitStack()

    def take_out(self, last_accesses: Callable[[], object] = lambda: None) -> None:
        """Have the guest find nobody there, then stop the device and close all of it.

        ``last_accesses`` returns when no processor is inside an access any more that began before
        it was called: one that notifies the device must not find its eventfd closed, or the number
        of that given to another file. When this returns nothing reads or writes guest memory, or
        interrupts (``PCI-63``).
        """
        with self.resources:
            self.connections.close()
            last_accesses()
