"""The host's side of the guest's sockets: sockets of the host, joined to connections."""

from vmm.vsock.host import VsockHost, VsockListener

__all__ = ["VsockHost", "VsockListener"]
