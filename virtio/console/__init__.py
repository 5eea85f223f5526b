"""The console device: bytes between guest and host. VIRTIO 1.4 "Console Device"."""

from virtio.console.device import Console
from virtio.console.port import ConsolePort

__all__ = ["Console", "ConsolePort"]
