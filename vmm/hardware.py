"""The hardware of a machine: opens the parts of the host that it needs, and wires them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING

from transport.core import VirtioTransport
from transport.mmio.placeholder import MmioPlaceholder
from transport.mmio.registers import VirtioMmio
from virtio.block import Block
from virtio.device.lifecycle import VirtioDevice
from virtio.errors import ConfigurationError
from vmm.bus import Bus
from vmm.config import MachineConfig
from vmm.devices import configured_devices, console_ports, with_ring_features
from vmm.disk.disk import RawDisk
from vmm.disk.overlay import OverlayDisk
from vmm.host.io_thread import IoThread
from vmm.kvm.irqfd import IrqfdLine
from vmm.kvm.system import KVM_CAP_MAX_VCPU_ID, KVM_CAP_MAX_VCPUS, Kvm
from vmm.memory import GuestRam
from vmm.x86 import (
    GuestEvents,
    Platform,
    VirtioMmioWindow,
    highest_vcpu_id,
    open_kvm,
    ram_regions,
    virtio_mmio_window,
)

if TYPE_CHECKING:
    from vmm.x86 import PciHost

MachineDisk = RawDisk | OverlayDisk


class Hardware:
    """Opens, on ``resources``, all that ``config`` asks for except the vCPUs.

    ``main`` serves the devices that have no thread of their own; ``events`` hears of the guest's
    end. A restored machine has ``memory``, a file, and ``disks`` of its snapshot; the disks are
    closed with the hardware. ``windows`` are the places of all virtio devices, the spare ones at
    the end; ``console_ports`` the ports of the virtio console by name.
    """

    def __init__(
        self,
        config: MachineConfig,
        main: IoThread,
        events: GuestEvents,
        resources: ExitStack,
        *,
        memory: int | None = None,
        disks: Sequence[MachineDisk] | None = None,
    ) -> None:
        # A stack of its own, as devices that are plugged in later go onto it too.
        self._resources = resources = resources.enter_context(ExitStack())
        self._main = main
        self._io_threads: list[IoThread] = []
        self._config = config
        self.kvm = resources.enter_context(open_kvm())
        _check_cpus(self.kvm, config)
        self.vm = resources.enter_context(self.kvm.create_vm())
        self.ram = resources.enter_context(GuestRam(ram_regions(config.memory_bytes), memory))
        self.ports = Bus("port I/O")
        self.mmio = Bus("memory-mapped I/O")
        self.platform = Platform(
            self.kvm, self.vm, self.ram, self.ports, self._line, events, config.topology
        )
        self.disks = _open_disks(config, resources) if disks is None else list(disks)
        self.console_ports = console_ports(config)
        self.transports: list[VirtioTransport] = []
        self.windows: list[VirtioMmioWindow] = []
        self._pci = self.platform.add_pci(self.mmio) if config.transport == "pci" else None
        ports = list(self.console_ports.values())
        for name, device in configured_devices(config, self.disks, ports):
            self._add_virtio_device(name or self._free_name(device), device)
        self._spare: list[tuple[VirtioMmioWindow, MmioPlaceholder]] = []
        self._spare_left = config.spare_slots
        if self._pci is None:
            self._spare = [self._add_spare_slot() for _ in range(config.spare_slots)]

    def plug(self, device: VirtioDevice) -> VirtioMmioWindow | None:
        """Put a device into the next spare slot and return its window; on PCI there is none.

        Raises :class:`ConfigurationError` when there is no slot left. The guest finds the device
        when it looks there again.
        """
        if not self._spare_left:
            raise ConfigurationError(
                f"{type(device).__name__}: no spare slot is left of {self._config.spare_slots}"
            )
        device = with_ring_features(device, self._config)
        name, window = self._free_name(device), None
        if self._pci is not None:
            self._attach_to_pci(self._pci, name, device, begin=None)
        else:
            window, placeholder = self._spare[0]
            placeholder.transport = self._attach(name, device, window, begin=None)
            self._spare.pop(0)
        self._spare_left -= 1
        return window

    def start_io(self) -> None:
        """Start to serve the devices that have a thread of their own."""
        for thread in self._io_threads:
            if not thread.started:
                thread.start()

    def stop_io(self) -> None:
        """Stop to serve those devices, for good."""
        for thread in self._io_threads:
            thread.stop()

    @property
    def plugged(self) -> bool:
        """Whether a device was plugged in that the configuration does not have."""
        return self._spare_left < self._config.spare_slots

    @property
    def given_back(self) -> bool:
        """Whether the guest has reset all virtio devices after it used one of them."""
        used = any(one.stats.kicks for one in self.transports)
        return used and not any(one.status for one in self.transports)

    def _line(self, gsi: int) -> IrqfdLine:
        line = IrqfdLine(self.vm, gsi)
        self._resources.callback(line.close)
        return line

    def _free_name(self, device: VirtioDevice) -> str:
        """Return the device's class with the lowest number that is free: ``block0``."""
        kind = type(device).__name__.lower()
        taken = {one.name for one in self.transports}
        return next(name for number in count() if (name := f"{kind}{number}") not in taken)

    def _next_window(self) -> VirtioMmioWindow:
        window = virtio_mmio_window(len(self.windows))
        self.windows.append(window)
        return window

    def _add_virtio_device(self, name: str, device: VirtioDevice) -> None:
        if self._pci is not None:
            self._attach_to_pci(self._pci, name, device, begin=self._main.begin)
            return
        window = self._next_window()
        transport = self._attach(name, device, window, begin=self._main.begin)
        self.mmio.add(window.address, VirtioMmio.WINDOW_SIZE, transport, name)

    def _add_spare_slot(self) -> tuple[VirtioMmioWindow, MmioPlaceholder]:
        window, placeholder = self._next_window(), MmioPlaceholder()
        self.mmio.add(window.address, MmioPlaceholder.WINDOW_SIZE, placeholder, "spare slot")
        return window, placeholder

    def _attach(
        self,
        name: str,
        device: VirtioDevice,
        window: VirtioMmioWindow,
        *,
        begin: Callable[[], object] | None,
    ) -> VirtioMmio:
        line = self._line(window.irq)
        thread, poll_us = self._io_thread(name, device, begin)
        transport = self._resources.enter_context(
            VirtioMmio(device, self.ram, line, thread.loop, name=name, poll_us=poll_us)
        )
        notify = window.address + VirtioMmio.QUEUE_NOTIFY
        for queue in transport.queues:
            self.vm.attach_ioeventfd(queue.notify_fd, notify, 4, queue.index)
        self._serve(transport, thread)
        return transport

    def _attach_to_pci(
        self,
        pci: PciHost,
        name: str,
        device: VirtioDevice,
        *,
        begin: Callable[[], object] | None,
    ) -> None:
        thread, poll_us = self._io_thread(name, device, begin)
        transport = pci.attach(device, self.ram, thread.loop, name, poll_us)
        self._serve(self._resources.enter_context(transport), thread)

    def _serve(self, transport: VirtioTransport, thread: IoThread) -> None:
        for queue in transport.queues:
            thread.loop.add_reader(queue.notify_fd, queue.serve)
        self.transports.append(transport)

    def _io_thread(
        self, name: str, device: VirtioDevice, begin: Callable[[], object] | None
    ) -> tuple[IoThread, int]:
        """Return the thread that serves a device, and for how long it may poll.

        Its own one starts when the main one has.
        """
        policy = self._config.io_threads
        if policy == "shared" or (policy == "disks" and not isinstance(device, Block)):
            return self._main, 0
        thread = self._resources.enter_context(IoThread(name, self._main.on_error, begin))
        self._io_threads.append(thread)
        if self._main.started:
            thread.start()
        return thread, self._config.poll_us


def _check_cpus(kvm: Kvm, config: MachineConfig) -> None:
    """Raise :class:`ConfigurationError` for more processors, or higher IDs, than KVM here takes."""
    allowed = kvm.check(KVM_CAP_MAX_VCPUS)
    if config.cpus > allowed:
        raise ConfigurationError(f"{config.cpus} processors: this host allows 1 to {allowed}")
    ids = kvm.check(KVM_CAP_MAX_VCPU_ID) or allowed
    if (last := highest_vcpu_id(config.topology)) >= ids:
        raise ConfigurationError(
            f"processors {config.topology}: have IDs up to {last}, this host takes 0 to {ids - 1}"
        )


def _open_disks(config: MachineConfig, resources: ExitStack) -> list[MachineDisk]:
    disks = []
    for one in config.disks:
        disks.append(one.open())
        resources.enter_context(disks[-1])
    return disks
