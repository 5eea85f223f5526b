"""The hardware of a machine: what is opened of the host for it, and how the parts are wired."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from transport.mmio import VirtioMmio
from virtio.block import Block
from virtio.declarative import Device
from virtio.device import VirtioDevice
from virtio.entropy import Entropy
from virtio.errors import ConfigurationError
from vmm.bus import Bus
from vmm.config import MachineConfig
from vmm.interrupt import IrqfdLine
from vmm.kvm.system import KVM_CAP_MAX_VCPUS, Kvm
from vmm.loop import EventLoop
from vmm.memory import GuestRam
from vmm.x86 import platform
from vmm.x86.layout import VirtioMmioWindow, ram_regions, virtio_mmio_window


class Hardware:
    """Opens, on ``resources``, all that ``config`` asks for except the vCPUs.

    ``loop`` serves the devices; ``events`` are the platform's ways to tell of the guest's end.
    """

    def __init__(
        self,
        config: MachineConfig,
        loop: EventLoop,
        events: platform.GuestEvents,
        resources: ExitStack,
    ) -> None:
        self._resources = resources
        self._loop = loop
        self.kvm = resources.enter_context(Kvm())
        self._check_cpus(config.cpus)
        self.vm = resources.enter_context(self.kvm.create_vm())
        self.ram = resources.enter_context(GuestRam(ram_regions(config.memory_bytes)))
        platform.create_chips(self.vm)
        platform.map_memory(self.vm, self.ram)
        self.ports = Bus("port I/O")
        self.mmio = Bus("memory-mapped I/O")
        self.legacy = platform.LegacyDevices(self.ports, self._line, events)
        self.transports: list[VirtioMmio] = []
        self.windows: list[VirtioMmioWindow] = []
        for name, device in _devices(config, resources):
            self._add_virtio_device(name, device)

    def _check_cpus(self, cpus: int) -> None:
        allowed = self.kvm.check(KVM_CAP_MAX_VCPUS)
        if cpus > allowed:
            raise ConfigurationError(f"{cpus} processors: this host allows 1 to {allowed}")

    def _line(self, gsi: int) -> IrqfdLine:
        line = IrqfdLine(self.vm, gsi)
        self._resources.callback(line.close)
        return line

    def _add_virtio_device(self, name: str, device: VirtioDevice) -> None:
        window = virtio_mmio_window(len(self.windows))
        line = self._line(window.irq)
        transport = self._resources.enter_context(
            VirtioMmio(device, self.ram, line, self._loop, name=name)
        )
        self.mmio.add(window.address, VirtioMmio.WINDOW_SIZE, transport, name)
        notify = window.address + VirtioMmio.QUEUE_NOTIFY
        for queue, eventfd in enumerate(transport.notify_fds):
            self.vm.attach_ioeventfd(eventfd, notify, 4, queue)
            self._loop.add_reader(eventfd, partial(transport.handle_notify, queue))
        self.transports.append(transport)
        self.windows.append(window)


def _devices(config: MachineConfig, resources: ExitStack) -> Iterator[tuple[str, VirtioDevice]]:
    """Make the devices, with names, in the order in which the guest will find them."""
    for index, disk in enumerate(config.disks):
        backend = resources.enter_context(disk.open())
        block = Block(backend, serial=disk.serial, block_size=disk.block_size, queues=disk.queues)
        yield f"block{index}", _with_ring_features(block, config)
    if config.rng:
        yield "entropy", _with_ring_features(Entropy(), config)
    for index, make in enumerate(config.devices):
        device = make()
        yield f"{type(device).__name__.lower()}{index}", _with_ring_features(device, config)


def _with_ring_features(device: VirtioDevice, config: MachineConfig) -> VirtioDevice:
    if config.ring_features is not None and isinstance(device, Device):
        device.ring_features = config.ring_features
    return device
