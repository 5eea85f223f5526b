"""The guest's sockets as UNIX sockets of the host: ``--vsock PATH``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from virtio.errors import ConfigurationError
from virtio.vsock.device import MAX_CONNECTIONS
from vmm.machine import Machine
from vmm.vsock.connector import Connector
from vmm.vsock.unix import UnixSockets


class GuestSockets:
    """Makes the process that connects to programs for a confined machine; before it is opened.

    ``most`` is how many sockets of the host the machine may have: one for each connection.
    """

    most: Final = MAX_CONNECTIONS

    def __init__(self, path: str, stack: ExitStack, *, confined: bool) -> None:
        self._path = path
        self._connector = stack.enter_context(Connector(path)) if confined else None

    def connect(self, machine: Machine, stack: ExitStack) -> None:
        """Let programs of the host reach the guest, until the stack ends.

        Raises :class:`ConfigurationError` when the path cannot be used, or for a machine that was
        saved without such sockets.
        """
        if machine.config.vsock is None:
            raise ConfigurationError("--vsock: the machine was saved without such sockets")
        connector = self._connector
        stack.enter_context(
            UnixSockets(self._path, machine.vsock, connector.connect if connector else None)
        )
        if connector is not None:
            connector.remove_at_end()
