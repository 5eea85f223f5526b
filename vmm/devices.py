"""The virtio devices that a configuration asks for, without their place in a machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from virtio.block import Block, BlockBackend
from virtio.device.declaration import Device
from virtio.device.lifecycle import VirtioDevice
from virtio.entropy import Entropy
from vmm.agent import PORT_NAME
from vmm.config import MachineConfig

if TYPE_CHECKING:
    from virtio.console import ConsolePort

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


def configured_devices(
    config: MachineConfig, disks: Sequence[BlockBackend], ports: Sequence[ConsolePort]
) -> Iterator[tuple[str | None, VirtioDevice]]:
    """Make the devices in the order in which the guest finds them.

    Each comes with its name, or None for one that is named by its class and a number.
    """
    for disk, backend in zip(config.disks, disks, strict=True):
        block = Block(backend, serial=disk.serial, block_size=disk.block_size, queues=disk.queues)
        yield None, with_ring_features(block, config)
    if config.rng:
        yield "entropy", with_ring_features(Entropy(), config)
    if ports:
        from virtio.console import Console

        yield "console", with_ring_features(Console(ports), config)
    if config.vsock is not None:
        from virtio.vsock import Vsock

        yield "vsock", with_ring_features(Vsock(config.vsock), config)
    for make in config.devices:
        device = make()
        yield None, with_ring_features(device, config)


def with_ring_features(device: VirtioDevice, config: MachineConfig) -> VirtioDevice:
    """Let ``device`` offer the ring features that the configuration asks for, and return it."""
    if config.ring_features is not None and isinstance(device, Device):
        device.ring_features = config.ring_features
    return device
