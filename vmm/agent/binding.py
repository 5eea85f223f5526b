"""Makes a Linux guest take a device that was plugged, and let go of one that is unplugged.

Linux Documentation/ABI/testing/sysfs-bus-platform, ``drivers/virtio/virtio_mmio.c`` and
Documentation/ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from vmm.agent.errors import GuestOSError
from vmm.slots import Slot

if TYPE_CHECKING:
    from vmm.agent import Agent

BIND: Final = "/sys/bus/platform/drivers/virtio-mmio/bind"
UNBIND: Final = "/sys/bus/platform/drivers/virtio-mmio/unbind"
RESCAN: Final = "/sys/bus/pci/rescan"
REMOVE: Final = "/sys/bus/pci/devices/0000:00:{number:02x}.0/remove"

_NOT_IN_USE: Final = (errno.ENOENT, errno.ENODEV)


def bind_device(agent: Agent, slot: Slot, timeout: float | None = None) -> None:
    """Have the guest's driver take the device in a slot."""
    if slot.transport == "pci":
        agent.write_file(RESCAN, "1", timeout=timeout)
    else:
        _tell_driver(agent, BIND, slot, timeout)


def release_device(agent: Agent, slot: Slot, timeout: float | None = None) -> None:
    """Have the guest's driver let go of the device in a slot, if it has it.

    It waits for its requests, and resets the device. Raises the agent's error when it cannot.
    """
    try:
        if slot.transport == "pci":
            agent.write_file(REMOVE.format(number=slot.number), "1", timeout=timeout)
        else:
            _tell_driver(agent, UNBIND, slot, timeout)
    except GuestOSError as error:
        if error.errno not in _NOT_IN_USE:
            raise


def _tell_driver(agent: Agent, attribute: str, slot: Slot, timeout: float | None) -> None:
    """Write the name that the device has on the platform bus: told by command line, or by ACPI."""
    try:
        agent.write_file(attribute, f"virtio-mmio.{slot.number}", timeout=timeout)
    except GuestOSError as error:
        if error.errno != errno.ENODEV:
            raise
        agent.write_file(attribute, f"LNRO0005:{slot.number:02x}", timeout=timeout)
