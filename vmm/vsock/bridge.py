"""A socket of the host, joined to a connection of the guest: what comes in at one goes out."""

import os
import select
import socket
from contextlib import suppress
from typing import Final

from virtio.device.lifecycle import EventLoop
from virtio.log import Logger
from virtio.vsock import VsockConnection

CHUNK_BYTES: Final = 64 * 1024

_log = Logger(__name__)


class SocketBridge:
    """Carries data between ``sock``, which it owns from here on, and an open ``connection``.

    It runs on the device's ``loop``. Neither side is read faster than the other takes; the end of
    what one sends becomes the end of what the other gets.
    """

    def __init__(self, connection: VsockConnection, sock: socket.socket, loop: EventLoop) -> None:
        sock.setblocking(False)
        self._connection = connection
        self._socket = sock
        self._loop = loop
        self._rest = b""
        self._is_ended = False
        connection.on_data = self._to_host
        connection.on_space = self._to_guest
        connection.on_end = self._guest_ended
        connection.on_close = self._close
        loop.add_reader(sock.fileno(), self._read)

    # From the host to the guest

    def _read(self) -> None:
        try:  # a byte more than a message may have, to know one that is too long
            self._rest = os.read(self._socket.fileno(), CHUNK_BYTES + 1)
        except BlockingIOError:
            return
        except OSError:
            self._connection.close()
            return
        if self._rest:
            self._to_guest()
        else:
            self._host_ended()

    def _to_guest(self) -> None:
        """Offer what was read, and read on when all of it is taken."""
        connection, fd = self._connection, self._socket.fileno()
        if not connection.guest_reads:
            self._rest = b""
            self._loop.remove_reader(fd)
            with suppress(OSError):  # the other end has gone
                self._socket.shutdown(socket.SHUT_RD)
            return
        try:
            self._rest = self._rest[connection.send(self._rest) :]
        except ValueError as error:
            _log.warning("vsock: port %d of the guest: %s", connection.guest_port, error)
            connection.abort()
            return
        if self._rest:
            self._loop.remove_reader(fd)
        elif not self._is_ended:
            self._loop.add_reader(fd, self._read)

    def _host_ended(self) -> None:
        """End what the guest gets; both directions when the other end was closed altogether."""
        self._is_ended = True
        self._loop.remove_reader(self._socket.fileno())
        if self._is_hung_up():
            self._connection.close()
        else:
            self._connection.end()

    def _is_hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    # From the guest to the host

    def _to_host(self, data: bytes) -> int:
        try:
            taken = os.write(self._socket.fileno(), data)
        except BlockingIOError:
            taken = 0
        except OSError:  # nobody reads there any more
            self._connection.close()
            return len(data)
        if taken < len(data):
            self._loop.add_writer(self._socket.fileno(), self._has_room)
        return taken

    def _has_room(self) -> None:
        self._loop.remove_writer(self._socket.fileno())
        self._connection.resume()

    def _guest_ended(self) -> None:
        with suppress(OSError):  # the other end has gone
            self._socket.shutdown(socket.SHUT_WR)

    def _close(self) -> None:
        fd = self._socket.fileno()
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        self._socket.close()
