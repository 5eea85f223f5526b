"""Sockets between the host's programs and the guest's: who listens, and how to get in."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Self

from virtio.errors import ConfigurationError, HostError
from virtio.log import Logger
from virtio.vsock.packet import SEQPACKET, STREAM
from vmm.vsock.bridge import SocketBridge

if TYPE_CHECKING:
    from virtio.vsock import Vsock, VsockConnection

KINDS: Final[dict[int, int]] = {socket.SOCK_STREAM: STREAM, socket.SOCK_SEQPACKET: SEQPACKET}
BACKLOG: Final = 16
CONNECT_SECONDS: Final = 10.0
SOCKET_BUFFER_BYTES: Final = 256 * 1024

MAX_PORT: Final = 0xFFFF_FFFE
"""The highest port; the one above it means any port. vsock(7)."""

_log = Logger(__name__)

Elsewhere = Callable[["VsockConnection"], object]


class VsockHost:
    """Connects to ports of the guest, and listens on ports of the host, through its ``device``.

    Both give ordinary connected sockets, streams or sequenced packets, which may be used from any
    thread until they are closed. ``elsewhere(connection)`` is asked for what nobody listens to.
    """

    def __init__(self, device: Vsock) -> None:
        self.device = device
        self._lock = threading.Lock()
        self._listeners: dict[tuple[int, int], VsockListener] = {}
        self._pending: dict[_Attempt, None] = {}
        self._ended = ""
        self.elsewhere: Elsewhere = _refuse
        device.on_request = self._requested

    @property
    def guest_cid(self) -> int:
        """The guest's address."""
        return self.device.guest_cid

    def connect(
        self,
        port: int,
        *,
        kind: int = socket.SOCK_STREAM,
        timeout: float = CONNECT_SECONDS,
    ) -> socket.socket:
        """Return a socket that is connected to a port of the guest.

        Waits up to ``timeout`` seconds for the guest to answer, and for its driver to be there.
        Raises :class:`ConnectionRefusedError` when nobody listens there or the guest goes away,
        :class:`TimeoutError` when it does not answer, and :class:`ConfigurationError` for a port or
        kind that cannot be.
        """
        kind_of_ours = _kind(kind)
        with self._lock:
            if self._ended:
                raise ConnectionRefusedError(f"port {port} of the guest: {self._ended}")
            attempt = _Attempt(self.device, checked_port(port), kind_of_ours, kind)
            self._pending[attempt] = None
        try:
            return attempt.wait(timeout)
        except BaseException:
            attempt.fail(InterruptedError(f"port {port} of the guest: nobody waits any more"))
            raise
        finally:
            with self._lock:
                self._pending.pop(attempt, None)

    def listen(
        self, port: int, *, kind: int = socket.SOCK_STREAM, backlog: int = BACKLOG
    ) -> VsockListener:
        """Listen on a port of the host, to which programs of the guest connect at CID 2.

        ``backlog`` connections wait to be accepted; more are refused. Raises
        :class:`ConfigurationError` for a port that is taken, or cannot be.
        """
        key = _kind(kind), checked_port(port)
        listener = VsockListener(self, port, kind, backlog)
        with self._lock:
            if key in self._listeners:
                raise ConfigurationError(f"port {port} of the host: somebody listens there already")
            self._listeners[key] = listener
        return listener

    def forget(self, listener: VsockListener) -> None:
        """Listen there no more."""
        with self._lock:
            key = KINDS[listener.kind], listener.port
            if self._listeners.get(key) is listener:
                del self._listeners[key]

    def end(self, message: str) -> None:
        """Let everybody know who waits for the guest, which is gone for good."""
        with self._lock:
            self._ended = message
            attempts, listeners = list(self._pending), list(self._listeners.values())
        for attempt in attempts:
            attempt.fail(ConnectionRefusedError(f"port {attempt.port} of the guest: {message}"))
        for listener in listeners:
            listener.end(message)

    # What the device calls, on its loop

    def _requested(self, connection: VsockConnection) -> None:
        with self._lock:
            listener = self._listeners.get((connection.kind, connection.host_port))
        if listener is None:
            self.elsewhere(connection)
            return
        try:
            near, far = socket_pair(listener.kind)
        except HostError as error:
            _log.warning("vsock: a connection to port %d is refused: %s", listener.port, error)
            connection.close()
            return
        if not listener.offer(near):
            far.close()
            connection.close()
            return
        connection.accept()
        SocketBridge(connection, far, self.device.loop)


class VsockListener:
    """Accepts connections of the guest to one port of the host; a context manager closes it."""

    def __init__(self, host: VsockHost, port: int, kind: int, backlog: int) -> None:
        self.port = port
        self.kind = kind
        self._host = host
        self._backlog = backlog
        self._waiting: queue.SimpleQueue[socket.socket | str] = queue.SimpleQueue()

    def offer(self, sock: socket.socket) -> bool:
        """Have a connection wait to be accepted, or close it; returns whether there is room."""
        if self._waiting.qsize() >= self._backlog:
            sock.close()
            return False
        self._waiting.put(sock)
        return True

    def accept(self, timeout: float | None = None) -> socket.socket:
        """Return the next connection of the guest, a connected socket.

        Raises :class:`TimeoutError` when there is none for ``timeout`` seconds, and
        :class:`ConnectionAbortedError` when the machine has ended.
        """
        try:
            found = self._waiting.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(
                f"port {self.port} of the host: no connection within {timeout:g} s"
            ) from None
        if isinstance(found, str):
            self._waiting.put(found)
            raise ConnectionAbortedError(f"port {self.port} of the host: {found}")
        return found

    def end(self, message: str) -> None:
        """Let those know who wait in :meth:`accept` that nobody comes any more."""
        self._waiting.put(message)

    def close(self) -> None:
        """Listen no more; connections that wait are closed."""
        self._host.forget(self)
        while not self._waiting.empty():
            found = self._waiting.get_nowait()
            if isinstance(found, socket.socket):
                found.close()
        self.end("the listener was closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Attempt:
    """A connection to the guest that somebody waits for."""

    def __init__(self, device: Vsock, port: int, kind: int, socket_kind: int) -> None:
        self.port = port
        self._device = device
        self._kind = kind
        self._near, self._far = socket_pair(socket_kind)
        self._connection: VsockConnection | None = None
        self._answered = threading.Event()
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._is_over = False

    def wait(self, seconds: float) -> socket.socket:
        """Ask, and return the socket once the guest said yes."""
        self._device.call(self._ask)
        if not self._answered.wait(seconds):
            message = f"port {self.port} of the guest: no answer within {seconds:g} s"
            self.fail(TimeoutError(message))
        if self._error is not None:
            raise self._error
        return self._near

    def fail(self, error: Exception) -> None:
        """Let the one who waits know that it came to nothing; from any thread."""
        if not self._settle(error):
            return
        self._near.close()
        self._far.close()
        self._device.call(self._give_up)

    def _settle(self, error: Exception | None) -> bool:
        """Decide how it went, once; returns whether this was the decision."""
        with self._lock:
            if self._is_over:
                return False
            self._is_over, self._error = True, error
        self._answered.set()
        return True

    # On the device's loop

    def _ask(self) -> None:
        if self._is_over:
            return
        try:
            connection = self._connection = self._device.connect(self.port, kind=self._kind)
        except ConfigurationError as error:
            self.fail(error)
            return
        connection.on_open = self._opened
        connection.on_close = self._refused

    def _opened(self) -> None:
        connection = self._connection
        if connection is None:
            return
        if self._settle(None):
            SocketBridge(connection, self._far, self._device.loop)
        else:
            connection.abort()

    def _refused(self) -> None:
        message = "nobody listens there, or the guest's driver was reset"
        self.fail(ConnectionRefusedError(f"port {self.port} of the guest: {message}"))

    def _give_up(self) -> None:
        if self._connection is not None:
            self._connection.abort()


def socket_pair(kind: int) -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets of the host, with room for any message that there may be."""
    try:
        pair = socket.socketpair(socket.AF_UNIX, kind)
    except OSError as error:
        raise HostError("socketpair", error.errno or 0) from error
    for one in pair:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    return pair


def _refuse(connection: VsockConnection) -> None:
    connection.close()


def checked_port(port: int) -> int:
    """Return a port that can be; raises :class:`ConfigurationError` for another."""
    if not 0 <= port <= MAX_PORT:
        raise ConfigurationError(f"port {port}: must be 0 to {MAX_PORT}")
    return port


def _kind(kind: int) -> int:
    if kind not in KINDS:
        raise ConfigurationError(
            f"sockets of type {kind}: must be socket.SOCK_STREAM or socket.SOCK_SEQPACKET"
        )
    return KINDS[kind]
