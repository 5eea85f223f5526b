"""The hardware of a machine: what is opened of the host for it, and how the parts are wired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from transport.mmio.registers import VirtioMmio
from transport.mmio.slot import MmioSlot
from virtio.block import Block, BlockBackend
from virtio.device.declaration import Device
from virtio.device.lifecycle import VirtioDevice
from virtio.entropy import Entropy
from virtio.errors import ConfigurationError
from vmm.agent import PORT_NAME
from vmm.bus import Bus
from vmm.config import MachineConfig
from vmm.disk.disk import RawDisk
from vmm.disk.overlay import OverlayDisk
from vmm.host.io_thread import IoThread
from vmm.kvm.irqfd import IrqfdLine
from vmm.kvm.system import KVM_CAP_MAX_VCPUS
from vmm.memory import GuestRam
from vmm.x86 import (
    GuestEvents,
    Platform,
    VirtioMmioWindow,
    open_kvm,
    ram_regions,
    virtio_mmio_window,
)

if TYPE_CHECKING:
    from virtio.console import ConsolePort

MachineDisk = RawDisk | OverlayDisk

HVC: Final = "hvc0"


class Hardware:
    """Opens, on ``resources``, all that ``config`` asks for except the vCPUs.

    ``main`` serves the devices that have no thread of their own; ``events`` are the platform's ways
    to tell of the guest's end.
    ``memory``, a file, and ``disks`` are what a snapshot goes on with; the disks are closed with
    the hardware. ``windows`` are the places of all virtio devices, the spare ones at the end;
    ``channels`` the ports of the virtio console by name, its first one as ``HVC``.
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
        self._check_cpus(config.cpus)
        self.vm = resources.enter_context(self.kvm.create_vm())
        self.ram = resources.enter_context(GuestRam(ram_regions(config.memory_bytes), memory))
        self.ports = Bus("port I/O")
        self.mmio = Bus("memory-mapped I/O")
        self.platform = Platform(self.kvm, self.vm, self.ram, self.ports, self._line, events)
        self.disks = _open_disks(config, resources) if disks is None else list(disks)
        self.channels = _channels(config)
        self.transports: list[VirtioMmio] = []
        self.windows: list[VirtioMmioWindow] = []
        for name, device in _devices(config, self.disks, list(self.channels.values())):
            self._add_virtio_device(name, device)
        self._spare = [self._add_spare_slot() for _ in range(config.spare_slots)]

    def plug(self, device: VirtioDevice) -> VirtioMmioWindow:
        """Put a device into the next spare slot and return its window.

        Raises :class:`ConfigurationError` when there is none left. The guest finds the device when
        it looks there again.
        """
        if not self._spare:
            raise ConfigurationError(
                f"{type(device).__name__}: no spare slot is left of {self._config.spare_slots}"
            )
        window, slot = self._spare[0]
        kind = type(device).__name__.lower()
        number = sum(one.name.rstrip("0123456789") == kind for one in self.transports)
        name = f"{kind}{number}"
        slot.transport = self._attach(name, _with_ring_features(device, self._config), window)
        self._spare.pop(0)
        return window

    def start_io(self) -> None:
        """Let the devices be served that have a thread of their own."""
        for thread in self._io_threads:
            if not thread.started:
                thread.start()

    def stop_io(self) -> None:
        """Serve them no more, for good."""
        for thread in self._io_threads:
            thread.stop()

    @property
    def plugged(self) -> bool:
        """Whether a device has come that the configuration does not have."""
        return len(self._spare) < self._config.spare_slots

    @property
    def given_back(self) -> bool:
        """Whether the guest has reset all virtio devices after it used one of them."""
        used = any(one.stats.kicks for one in self.transports)
        return used and not any(one.status for one in self.transports)

    def _check_cpus(self, cpus: int) -> None:
        allowed = self.kvm.check(KVM_CAP_MAX_VCPUS)
        if cpus > allowed:
            raise ConfigurationError(f"{cpus} processors: this host allows 1 to {allowed}")

    def _line(self, gsi: int) -> IrqfdLine:
        line = IrqfdLine(self.vm, gsi)
        self._resources.callback(line.close)
        return line

    def _next_window(self) -> VirtioMmioWindow:
        window = virtio_mmio_window(len(self.windows))
        self.windows.append(window)
        return window

    def _add_virtio_device(self, name: str, device: VirtioDevice) -> None:
        window = self._next_window()
        transport = self._attach(name, device, window)
        self.mmio.add(window.address, VirtioMmio.WINDOW_SIZE, transport, name)

    def _add_spare_slot(self) -> tuple[VirtioMmioWindow, MmioSlot]:
        window, slot = self._next_window(), MmioSlot()
        self.mmio.add(window.address, MmioSlot.WINDOW_SIZE, slot, "spare slot")
        return window, slot

    def _attach(self, name: str, device: VirtioDevice, window: VirtioMmioWindow) -> VirtioMmio:
        line = self._line(window.irq)
        thread = self._io_thread(name, device)
        poll_us = 0 if thread is self._main else self._config.poll_us
        transport = self._resources.enter_context(
            VirtioMmio(device, self.ram, line, thread.loop, name=name, poll_us=poll_us)
        )
        notify = window.address + VirtioMmio.QUEUE_NOTIFY
        for queue in transport.queues:
            self.vm.attach_ioeventfd(queue.notify_fd, notify, 4, queue.index)
            thread.loop.add_reader(queue.notify_fd, queue.serve)
        self.transports.append(transport)
        return transport

    def _io_thread(self, name: str, device: VirtioDevice) -> IoThread:
        """Return the thread that serves a device; one of its own starts when the main one has."""
        policy = self._config.io_threads
        if policy == "shared" or (policy == "disks" and not isinstance(device, Block)):
            return self._main
        thread = self._resources.enter_context(IoThread(name, self._main.on_error))
        self._io_threads.append(thread)
        if self._main.started:
            thread.start()
        return thread


def _open_disks(config: MachineConfig, resources: ExitStack) -> list[MachineDisk]:
    disks = []
    for one in config.disks:
        disks.append(one.open())
        resources.enter_context(disks[-1])
    return disks


def _channels(config: MachineConfig) -> dict[str, ConsolePort]:
    """Return the ports of the virtio console; none when the machine needs no such device."""
    names = [*config.ports, *([PORT_NAME] if config.agent != "none" else [])]
    if not names and config.console != "virtio":
        return {}
    from virtio.console import ConsolePort

    channels = {HVC: ConsolePort(console=True)} if config.console == "virtio" else {}
    return channels | {name: ConsolePort(name) for name in names}


def _devices(
    config: MachineConfig, disks: Sequence[BlockBackend], ports: Sequence[ConsolePort]
) -> Iterator[tuple[str, VirtioDevice]]:
    """Make the devices, with names, in the order in which the guest will find them."""
    for index, (disk, backend) in enumerate(zip(config.disks, disks, strict=True)):
        block = Block(backend, serial=disk.serial, block_size=disk.block_size, queues=disk.queues)
        yield f"block{index}", _with_ring_features(block, config)
    if config.rng:
        yield "entropy", _with_ring_features(Entropy(), config)
    if ports:
        from virtio.console import Console

        yield "console", _with_ring_features(Console(ports), config)
    for index, make in enumerate(config.devices):
        device = make()
        yield f"{type(device).__name__.lower()}{index}", _with_ring_features(device, config)


def _with_ring_features(device: VirtioDevice, config: MachineConfig) -> VirtioDevice:
    if config.ring_features is not None and isinstance(device, Device):
        device.ring_features = config.ring_features
    return device
