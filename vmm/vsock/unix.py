"""The guest's sockets as UNIX sockets of the host, in the convention of other monitors.

A program of the host connects to ``PATH``, writes ``CONNECT 1234`` and a newline, and reads ``OK``
with a number when the guest has accepted; from then on it speaks with port 1234 of the guest. When
the guest connects to port 1234 of the host, whoever listens at ``PATH_1234`` gets the connection.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from virtio.errors import ConfigurationError
from virtio.log import Logger
from virtio.vsock.packet import STREAM
from vmm.host.resource import Resource
from vmm.host.unix_socket import listening
from vmm.vsock.bridge import SocketBridge
from vmm.vsock.host import checked_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtio.device.lifecycle import EventLoop
    from virtio.vsock import Vsock, VsockConnection
    from vmm.vsock.host import VsockHost

    Connector = Callable[[int], socket.socket]

BACKLOG: Final = 64
GREETING_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 1.0
GREETING_BYTES: Final = 32
_GREETING: Final = re.compile(rb"CONNECT ([0-9]{1,10})\r?\n")
_LONGEST_SUFFIX: Final = len("_4294967294")

_log = Logger(__name__)


class UnixSockets(Resource):
    """Listens at ``path`` for programs of the host, and brings the guest to those at ``path_N``.

    ``connect(port)`` does the latter; by default in this process. Closing removes ``path``. Raises
    :class:`ConfigurationError` when there is something at ``path`` already, or it cannot be.
    """

    def __init__(self, path: str, host: VsockHost, connect: Connector | None = None) -> None:
        self._path = path
        self._device = device = host.device
        self._connect = connect or self._connect_here
        self._greeted: dict[socket.socket, _Greeting] = {}
        self._listener = listening(path, "vsock socket ", BACKLOG, _LONGEST_SUFFIX)
        host.elsewhere = self._requested
        device.on_live = self._live
        device.call(lambda: self._listen(device.loop))  # which may be live already

    def close(self) -> None:
        """Listen no more, and remove the socket's name."""
        for greeting in list(self._greeted.values()):
            greeting.close()
        if self._listener.fileno() >= 0:
            self._listener.close()
            with suppress(OSError):
                os.unlink(self._path)

    # From the host to the guest

    def _live(self, loop: EventLoop) -> None:
        """Listen while there is a driver; those who come earlier wait."""
        for greeting in list(self._greeted.values()):  # the loop that they knew is gone
            greeting.close()
        self._listen(loop)

    def _listen(self, loop: EventLoop) -> None:
        loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # no descriptor is left: who waits, waits on
            _log.warning("vsock: %s: accept: %s", self._path, error.strerror)
            loop = self._device.loop
            loop.remove_reader(self._listener.fileno())
            loop.call_later(RETRY_SECONDS, lambda: self._listen(loop))
            return
        if len(self._greeted) >= BACKLOG:
            sock.close()
            return
        self._greeted[sock] = _Greeting(sock, self._device, self._greeted)

    # From the guest to the host

    def _requested(self, connection: VsockConnection) -> None:
        if connection.kind != STREAM:
            connection.close()
            return
        try:
            sock = self._connect(connection.host_port)
        except OSError:  # nobody listens there
            connection.close()
            return
        connection.accept()
        SocketBridge(connection, sock, self._device.loop)

    def _connect_here(self, port: int) -> socket.socket:
        return connect_to(self._path, port)


def connect_to(path: str, port: int) -> socket.socket:
    """Return a socket that is connected to whoever listens at ``path_port``; does not wait.

    Raises :class:`OSError` when there is nobody.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(f"{path}_{port}")
    except OSError:
        sock.close()
        raise
    return sock


class _Greeting:
    """A program of the host that says which port of the guest it wants."""

    def __init__(
        self, sock: socket.socket, device: Vsock, greeted: dict[socket.socket, _Greeting]
    ) -> None:
        self._socket = sock
        self._device = device
        self._loop = device.loop
        self._greeted = greeted
        self._text = b""
        self._connection: VsockConnection | None = None
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._read)
        self._timer = self._loop.call_later(GREETING_SECONDS, self.close)

    def _read(self) -> None:
        """Read up to the end of the line and no further: what follows is for the guest."""
        try:
            peeked = self._socket.recv(GREETING_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            peeked = b""
        line, newline, _ = peeked.partition(b"\n")
        with suppress(OSError):
            self._text += self._socket.recv(len(line + newline)) if peeked else b""
        if not peeked or len(self._text) > GREETING_BYTES:
            self.close()
        elif newline:
            self._ask()

    def _ask(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._timer.cancel()
        found = _GREETING.fullmatch(self._text)
        try:
            if found is None:
                raise ConfigurationError("it must begin with CONNECT, a port and a newline")
            connection = self._connection = self._device.connect(checked_port(int(found[1])))
        except ConfigurationError as error:
            _log.info("vsock: a program of the host is sent away: %s", error)
            self.close()
            return
        connection.on_open = self._opened
        connection.on_close = self.close

    def _opened(self) -> None:
        connection = self._connection
        if connection is None:
            return
        del self._greeted[self._socket]
        with suppress(OSError):  # it has gone, as the bridge finds out
            self._socket.send(b"OK %d\n" % connection.host_port)
        SocketBridge(connection, self._socket, self._loop)

    def close(self) -> None:
        """Send it away."""
        self._timer.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._greeted.pop(self._socket, None)
        self._socket.close()
        if self._connection is not None:
            self._connection.abort()
