"""For tests of transports: interrupts that are remembered, and drivers of the registers."""

from transport.testing.mmio import MmioDriver
from transport.testing.pci import PciDriver
from transport.testing.signals import RecordingLine, RecordingMessages

__all__ = ["MmioDriver", "PciDriver", "RecordingLine", "RecordingMessages"]
