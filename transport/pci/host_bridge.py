"""The host bridge: the function that a guest looks for to see that there is a PCI bus.

Linux ``arch/x86/pci/direct.c`` takes a bus without one for none at all.
"""

from typing import Final

from transport.pci.configuration import Identity
from transport.pci.function import PciFunction

HOST_BRIDGE: Final = Identity(0x8086, 0x0D57, 0x060000, revision=0)
"""Ids that no quirk of Linux knows; Firecracker and Cloud Hypervisor have the same."""


def host_bridge() -> PciFunction:
    """Return the function of slot 0: no BARs, no capabilities, nothing to do."""
    return PciFunction(HOST_BRIDGE)
