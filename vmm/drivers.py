"""Which of Linux's drivers a machine's devices need: the module of each, and the option it has.

Numbers are those of VIRTIO 1.4 "Device Types", names those of Linux drivers/*/Kconfig.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from virtio.named_tuple import NamedTuple
from vmm.config import DeviceConfig, MachineConfig

BLOCK: Final = 2
CONSOLE: Final = 3
ENTROPY: Final = 4
BALLOON: Final = 5
VSOCK: Final = 19
FS: Final = 26


class Driver(NamedTuple):
    """A module of the kernel, the option that has it built, and what needs it in a machine.

    ``required`` tells whether the machine is of no use without it, ``also`` which further options
    must be on.
    """

    module: str
    option: str
    purpose: str
    required: bool = False
    also: tuple[str, ...] = ()


_BUS: Final = {"mmio": (), "pci": ("CONFIG_PCI",)}

TRANSPORTS: Final = {
    "mmio": ("virtio_mmio", "CONFIG_VIRTIO_MMIO"),
    "pci": ("virtio_pci", "CONFIG_VIRTIO_PCI"),
}

DEVICES: Final = {
    1: ("virtio_net", "CONFIG_VIRTIO_NET"),
    BLOCK: ("virtio_blk", "CONFIG_VIRTIO_BLK"),
    CONSOLE: ("virtio_console", "CONFIG_VIRTIO_CONSOLE"),
    ENTROPY: ("virtio_rng", "CONFIG_HW_RANDOM_VIRTIO"),
    BALLOON: ("virtio_balloon", "CONFIG_VIRTIO_BALLOON"),
    8: ("virtio_scsi", "CONFIG_SCSI_VIRTIO"),
    9: ("9pnet_virtio", "CONFIG_NET_9P_VIRTIO"),
    16: ("virtio_gpu", "CONFIG_DRM_VIRTIO_GPU"),
    18: ("virtio_input", "CONFIG_VIRTIO_INPUT"),
    VSOCK: ("vmw_vsock_virtio_transport", "CONFIG_VIRTIO_VSOCKETS"),
    20: ("virtio_crypto", "CONFIG_CRYPTO_DEV_VIRTIO"),
    24: ("virtio_mem", "CONFIG_VIRTIO_MEM"),
    25: ("virtio_snd", "CONFIG_SND_VIRTIO"),
    FS: ("virtiofs", "CONFIG_VIRTIO_FS"),
    27: ("virtio_pmem", "CONFIG_VIRTIO_PMEM"),
    34: ("i2c_virtio", "CONFIG_I2C_VIRTIO"),
    41: ("gpio_virtio", "CONFIG_GPIO_VIRTIO"),
}
"""The driver of each kind of virtio device that Linux has one for."""

_PLUGGED: Final = (1, BLOCK, ENTROPY, BALLOON, 18, VSOCK, FS, 34, 41)
"""What may be plugged in later: small drivers, so that each guest can have them all."""


def drivers(config: MachineConfig) -> list[Driver]:
    """Return the drivers that a guest of this machine needs, the transport's first."""
    return list(dict.fromkeys(_drivers(config)))


def _drivers(config: MachineConfig) -> Iterator[Driver]:
    wanted = [*_required(config)]
    for transport in config.transports:
        also = _BUS[transport]
        if transport == "mmio" and not config.acpi:
            also = ("CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES",)
        yield Driver(*TRANSPORTS[transport], f"transport {transport}", bool(wanted), also)
    for number, purpose in wanted:
        yield Driver(*DEVICES[number], purpose, required=True)
    if config.rng:
        yield Driver(*DEVICES[ENTROPY], "the entropy device")
    if config.balloon is not None:
        yield Driver(*DEVICES[BALLOON], "the memory balloon")
    for one in config.devices:
        make = one.make if isinstance(one, DeviceConfig) else one
        kind = getattr(make, "device_id", None)
        if kind in DEVICES:
            yield Driver(*DEVICES[kind], f"device {getattr(make, '__name__', kind)}")
    for number in _PLUGGED if config.spare_slots else ():
        yield Driver(*DEVICES[number], "a device that is plugged in")
    if config.disks or config.spare_slots:
        yield Driver("ext4", "CONFIG_EXT4_FS", "a file system on a disk")
    if any(one.is_root for one in config.shares):
        yield Driver("overlay", "CONFIG_OVERLAY_FS", "a root of the host", required=True)
    if config.acpi:
        yield Driver("pvpanic_mmio", "CONFIG_PVPANIC_MMIO", "the word of a panic")


def _required(config: MachineConfig) -> Iterator[tuple[int, str]]:
    if config.disks:
        yield BLOCK, "the disks"
    if config.console == "virtio":
        yield CONSOLE, "the console hvc0"
    if config.agent != "none":
        yield CONSOLE, "the agent's port"
    if config.ports:
        yield CONSOLE, f"port {config.ports[0]}"
    if config.shares:
        yield FS, "the shared directories"
    if config.vsock is not None:
        yield VSOCK, "the socket device"
