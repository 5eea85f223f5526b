"""The PCI bus of a PC: its host bridge, its windows and ports, and interrupts through KVM.

Where all of it stands is in :mod:`vmm.x86.layout`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from transport.pci.access import ConfigurationPorts, EcamWindow
from transport.pci.bus import PciBus
from transport.pci.function import FunctionState
from transport.pci.host_bridge import host_bridge
from transport.pci.layout import BAR_BYTES
from transport.pci.registers import VirtioPci
from transport.pci.shared_line import SharedLine
from transport.pci.virtio_function import VirtioFunction
from virtio.device.lifecycle import EventLoop, VirtioDevice
from virtio.errors import ConfigurationError, HostError
from virtio.log import Logger
from virtio.memory import GuestMemory
from virtio.named_tuple import NamedTuple
from virtio.saved import U32
from vmm.bus import Bus
from vmm.kvm.level_line import LevelLine
from vmm.kvm.routing import GsiRoutes, MsiSink
from vmm.kvm.system import (
    KVM_CAP_IOEVENTFD_ANY_LENGTH,
    KVM_CAP_IRQ_ROUTING,
    KVM_CAP_SIGNAL_MSI,
    Kvm,
)
from vmm.kvm.vm import Vm
from vmm.x86 import layout
from vmm.x86.kvm.routing import IOAPIC_LINES, chip_routes

INTX_LINES: Final = 4
MAX_GSIS: Final = 4096

_NEEDED: Final = {
    "KVM_CAP_IRQ_ROUTING": KVM_CAP_IRQ_ROUTING,
    "KVM_CAP_SIGNAL_MSI": KVM_CAP_SIGNAL_MSI,
    "KVM_CAP_IOEVENTFD_ANY_LENGTH": KVM_CAP_IOEVENTFD_ANY_LENGTH,
}

_log = Logger(__name__)


class PciState(NamedTuple):
    """What a guest has set on the bus: the address port, and each function, by ascending slot."""

    address: U32
    functions: tuple[FunctionState, ...]


class PciHost:
    """A bus on ``ports`` and ``mmio``; ``on_reset`` hears of the reset control register.

    Slot 0 has the host bridge. BARs are seen in the low window and everywhere above RAM, which ends
    at ``ram_end``: a kernel that no ACPI tells of windows puts a device that is plugged in there.
    Raises :class:`ConfigurationError` on a host whose KVM cannot signal messages.
    """

    def __init__(
        self,
        kvm: Kvm,
        vm: Vm,
        ports: Bus,
        mmio: Bus,
        on_reset: Callable[[], object],
        *,
        ram_end: int,
    ) -> None:
        lacks = [name for name, number in _NEEDED.items() if not kvm.check(number)]
        if lacks:
            raise ConfigurationError(f"PCI: this host's KVM lacks {', '.join(lacks)}; use mmio")
        self._vm = vm
        low, high = layout.PCI_WINDOWS
        above_ram = max(ram_end, layout.HIGH_RAM)
        self.bus = PciBus((low, (above_ram, sum(high) - above_ram)))
        self.bus.add(0, host_bridge())
        self._ports = ConfigurationPorts(self.bus, on_reset)
        ports.add(
            layout.PCI_CONFIG_PORTS, ConfigurationPorts.PORT_COUNT, self._ports, "PCI configuration"
        )
        mmio.add(layout.PCI_ECAM, EcamWindow.SIZE, EcamWindow(self.bus), "PCI configuration")
        for address, length in self.bus.windows:
            mmio.add(address, length, self.bus, "PCI memory", offset=address)
        self._lines = [
            SharedLine(LevelLine(vm, layout.PCI_FIRST_IRQ + line)) for line in range(INTX_LINES)
        ]
        gsis = min(kvm.check(KVM_CAP_IRQ_ROUTING), MAX_GSIS)
        self._routes = GsiRoutes(vm, chip_routes(), range(IOAPIC_LINES, gsis))

    def attach(
        self,
        slot: int,
        device: VirtioDevice,
        memory: GuestMemory,
        loop: EventLoop,
        name: str,
        poll_us: int,
    ) -> VirtioPci:
        """Put a device into a free slot, and return its transport, which the caller closes.

        Its BAR has a place already, for guests that give it none.
        """
        # Pin A of the slots in turn, as the lines of a PC's slots are wired.
        line = self._lines[slot % INTX_LINES].tap()
        sink = MsiSink(self._vm, self._routes)
        transport = VirtioPci(device, memory, sink, line, loop, name=name, poll_us=poll_us)
        function = VirtioFunction(transport, WriteNotifications(self._vm))
        function.bar.place(layout.PCI_WINDOWS[0][0] + slot * BAR_BYTES)
        self.bus.add(slot, function)
        return transport

    def detach(self, slot: int) -> None:
        """Take the device out of a slot; it answers nothing any more, and the caller closes it."""
        self.bus.remove(slot)

    def bar_address(self, slot: int) -> int | None:
        """Return where the device in a slot has its BAR 0; None for a slot without a device."""
        function = self.bus.slots.get(slot)
        return function.bar.address if isinstance(function, VirtioFunction) else None

    def state(self) -> PciState:
        """Return what the guest has set, while no vCPU runs."""
        functions = tuple(function.state() for function in self.bus.slots.values())
        return PciState(self._ports.address, functions)

    def restore(self, state: PciState) -> None:
        """Restore what :meth:`state` returned, before the transports.

        Raises :class:`ConfigurationError` for a state that this bus cannot have been in.
        """
        functions = list(self.bus.slots.values())
        if len(state.functions) != len(functions):
            raise ConfigurationError(
                f"saved PCI bus: has {len(state.functions)} functions, the machine {len(functions)}"
            )
        self._ports.restore(state.address)
        for function, saved in zip(functions, state.functions, strict=True):
            function.restore(saved)


class WriteNotifications:
    """Has KVM signal the eventfds of one function's queues, at writes of any width and value.

    An address that KVM refuses, such as one that another device has, is left to the registers
    (``PCI-19``).
    """

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._attached: set[tuple[int, int]] = set()

    def attach(self, eventfd: int, address: int) -> None:
        """Signal ``eventfd`` at each write to ``address`` from now on, in place of an exit."""
        try:
            self._vm.attach_write_eventfd(eventfd, address)
        except HostError as error:
            _log.warning("notifications at %#x exit to the monitor: %s", address, error)
        else:
            self._attached.add((eventfd, address))

    def detach(self, eventfd: int, address: int) -> None:
        """Stop that."""
        if (eventfd, address) in self._attached:
            self._attached.remove((eventfd, address))
            self._vm.detach_write_eventfd(eventfd, address)
