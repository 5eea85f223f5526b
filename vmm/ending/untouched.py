"""The devices that no driver of the guest ever took: what its kernel, or its initrd, may lack.

A driver of the bus acknowledges each device that it finds, and the device's own driver says that it
can drive it: VIRTIO 1.4 "Device Initialization".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from transport.mmio.registers import VirtioMmio
from transport.status import VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER
from vmm.drivers import DEVICES, TRANSPORTS

if TYPE_CHECKING:
    from transport.core import VirtioTransport


def untouched(transports: Sequence[VirtioTransport]) -> list[str]:
    """Return a line for each device without a driver, or for each bus that nobody looked at."""
    return [*_untouched_buses(transports), *_untouched_devices(transports)]


def _untouched_buses(transports: Sequence[VirtioTransport]) -> Iterator[str]:
    for kind, driver in TRANSPORTS.items():
        there = [one for one in transports if _kind(one) == kind]
        if there and not any(_found(one) for one in there):
            names = ", ".join(one.name for one in there)
            yield _line(f"{names} (transport {kind})", *driver)


def _untouched_devices(transports: Sequence[VirtioTransport]) -> Iterator[str]:
    for one in transports:
        if _found(one) and not one.reached & VIRTIO_CONFIG_S_DRIVER:
            yield _line(one.name, *DEVICES.get(one.device.device_id, ("", "")))


def _kind(transport: VirtioTransport) -> str:
    return "mmio" if isinstance(transport, VirtioMmio) else "pci"


def _found(transport: VirtioTransport) -> bool:
    return bool(transport.reached & VIRTIO_CONFIG_S_ACKNOWLEDGE)


def _line(what: str, module: str, option: str) -> str:
    line = f"no driver of the guest ever touched {what}"
    if not module:
        return line
    return f"{line}: has its kernel {option}, or its initrd the module {module}?"
