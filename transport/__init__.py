"""The register interface between a guest's driver and a virtio device."""

from transport.core import VirtioTransport
from transport.interrupts import Interrupts
from transport.line import InterruptLine
from transport.mmio.placeholder import MmioPlaceholder
from transport.mmio.registers import VirtioMmio
from transport.state import TransportState
from transport.stats import TransportStats

__all__ = [
    "InterruptLine",
    "Interrupts",
    "MmioPlaceholder",
    "TransportState",
    "TransportStats",
    "VirtioMmio",
    "VirtioTransport",
]
