"""The socket device: streams and messages between host and guest. VIRTIO 1.4 "Socket Device"."""

from virtio.vsock.connection import VsockConnection
from virtio.vsock.device import Vsock

__all__ = ["Vsock", "VsockConnection"]
