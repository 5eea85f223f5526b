"""The virtio devices that a configuration asks for, without their place in a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal

from virtio.block import SECTOR_BYTES, Block
from virtio.device.declaration import Device
from virtio.device.lifecycle import VirtioDevice
from virtio.entropy import Entropy
from virtio.named_tuple import NamedTuple
from vmm.agent import PORT_NAME
from vmm.config import DeviceConfig, MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.disk.overlay import BaseDisk
from vmm.net.config import NetConfig
from vmm.slots import Transport

if TYPE_CHECKING:
    from virtio.balloon.device import Discard
    from virtio.console import ConsolePort
    from virtio.net import NetBackend
    from vmm.share.directory import HostDirectory

Maker = Callable[[], VirtioDevice]
MachineDisk = BaseDisk
OwnDevice = Literal["rng", "console", "vsock", "balloon", "share"]
Source = DiskConfig | NetConfig | Maker | OwnDevice

HVC: Final = "hvc0"
"""The name that the guest gives to the console on the first port of the virtio console."""


def console_ports(config: MachineConfig) -> dict[str, ConsolePort]:
    """Return the ports of the virtio console by name; none when the machine needs no such device.

    The first one is ``HVC`` when the guest has its console there.
    """
    names = [*config.ports, *([PORT_NAME] if config.agent != "none" else [])]
    if not names and config.console != "virtio":
        return {}
    from virtio.console import ConsolePort

    ports = {HVC: ConsolePort(console=True)} if config.console == "virtio" else {}
    return ports | {name: ConsolePort(name) for name in names}


class PlannedDevice(NamedTuple):
    """A device before it is in a machine.

    ``source`` is what the configuration says of it. ``name`` is None for one that is named by its
    class and a number, ``transport`` for one that is where most of the machine's are; ``backend``
    is the disk, ``network`` what is behind a network card; they are closed with it.
    """

    source: Source
    device: VirtioDevice
    name: str | None = None
    transport: Transport | None = None
    backend: MachineDisk | None = None
    network: NetBackend | None = None

    def close(self) -> None:
        """Close what is the device's alone."""
        if self.backend is not None:
            self.backend.close()
        if self.network is not None:
            from vmm.net.opening import close_network

            close_network(self.network)


def configured_devices(
    config: MachineConfig,
    disks: Sequence[MachineDisk],
    ports: Sequence[ConsolePort],
    directories: Sequence[HostDirectory] = (),
    networks: Sequence[NetBackend] = (),
    *,
    discard: Discard,
) -> Iterator[PlannedDevice]:
    """Make the devices in the order in which the guest finds them; ``discard`` frees its memory."""
    for disk, backend in zip(config.disks, disks, strict=True):
        yield disk_device(disk, backend, config)
    if config.rng:
        device = with_ring_features(Entropy(), config)
        yield PlannedDevice("rng", device, "entropy", config.rng_transport)
    if ports:
        from virtio.console import Console

        console = with_ring_features(Console(ports), config)
        yield PlannedDevice("console", console, "console", config.console_transport)
    if config.vsock is not None:
        from virtio.vsock import Vsock

        yield PlannedDevice("vsock", with_ring_features(Vsock(config.vsock), config), "vsock")
    if config.balloon is not None:
        from virtio.balloon import Balloon
        from vmm.balloon.size import PAGE_BYTES

        balloon = Balloon(discard)
        balloon.num_pages = config.balloon // PAGE_BYTES
        yield PlannedDevice("balloon", with_ring_features(balloon, config), "balloon")
    if directories:
        from vmm.share.shares import share_device

        for index, (share, one) in enumerate(zip(config.shares, directories, strict=True)):
            device = with_ring_features(share_device(share, index, one), config)
            yield PlannedDevice("share", device)
    for net, network in zip(config.nets, networks, strict=True):
        yield net_device(net, network, config)
    for make in config.devices:
        yield made_device(make, config)


def disk_device(disk: DiskConfig, backend: MachineDisk, config: MachineConfig) -> PlannedDevice:
    """Return the block device of a disk that was opened."""
    block = Block(backend, serial=disk.serial, block_size=disk.block_size, queues=disk.queues)
    with_ring_features(block, config)
    if disk.block_size != block.blk_size and backend.block_size != SECTOR_BYTES:
        from dataclasses import replace

        # A snapshot has it on another medium, with blocks as the guest knows them.
        disk = replace(disk, block_size=block.blk_size)
    return PlannedDevice(disk, block, transport=disk.transport, backend=backend)


def net_device(net: NetConfig, network: NetBackend, config: MachineConfig) -> PlannedDevice:
    """Return the network card before a network that was opened."""
    from virtio.net.device import Net

    card = Net(network, mac=net.address(), mtu=net.mtu, pairs=net.queues)
    return PlannedDevice(net, with_ring_features(card, config), network=network)


def made_device(make: Maker, config: MachineConfig) -> PlannedDevice:
    """Return the device that ``make`` makes."""
    device = with_ring_features(make(), config)
    transport = make.transport if isinstance(make, DeviceConfig) else None
    return PlannedDevice(make, device, transport=transport)


def with_ring_features(device: VirtioDevice, config: MachineConfig) -> VirtioDevice:
    """Let ``device`` offer the ring features that the configuration asks for, and return it."""
    if config.ring_features is not None and isinstance(device, Device):
        device.ring_features = config.ring_features
    return device
