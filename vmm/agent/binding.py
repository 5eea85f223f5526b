"""Makes a Linux guest look where there was no device when it booted.

Linux Documentation/ABI/testing/sysfs-bus-platform, ``drivers/virtio/virtio_mmio.c`` and
Documentation/ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vmm.agent import Agent

BIND: Final = "/sys/bus/platform/drivers/virtio-mmio/bind"
RESCAN: Final = "/sys/bus/pci/rescan"


def bind_window(agent: Agent, index: int) -> None:
    """Have the guest's driver take the device in window ``index``, counted from 0."""
    agent.write_file(BIND, f"virtio-mmio.{index}")


def rescan_pci(agent: Agent) -> None:
    """Have the guest look at all slots of its PCI bus again."""
    agent.write_file(RESCAN, "1")
