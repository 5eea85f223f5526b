"""Makes a Linux guest look at a virtio-mmio window that was empty when it booted.

Linux Documentation/ABI/testing/sysfs-bus-platform and ``drivers/virtio/virtio_mmio.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vmm.agent import Agent

BIND: Final = "/sys/bus/platform/drivers/virtio-mmio/bind"


def bind_window(agent: Agent, index: int) -> None:
    """Have the guest's driver take the device in window ``index``, counted from 0."""
    agent.write_file(BIND, f"virtio-mmio.{index}")
