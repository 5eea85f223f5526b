"""Where a debugger connects: ``[HOST:]PORT`` or ``unix:PATH``, and the socket for it."""

from __future__ import annotations

import os
import socket
from typing import Final

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.host.resource import Resource

LOOPBACK: Final = "127.0.0.1"
_UNIX: Final = "unix:"
_FORMS: Final = "must be PORT, HOST:PORT or unix:PATH, and ,wait=off may follow"
_LAST_PORT: Final = 0xFFFF
_BACKLOG: Final = 2


class DebugPlace(NamedTuple):
    """A path, or a host and a port; and whether the guest waits there for the debugger.

    Port 0 is any free one.
    """

    path: str = ""
    host: str = LOOPBACK
    port: int = 0
    waits: bool = True

    @classmethod
    def parse(cls, text: str) -> DebugPlace:
        """Return what ``--gdb`` says; raises ``ConfigurationError`` for another form.

        >>> DebugPlace.parse("1234"), DebugPlace.parse("unix:g.sock,wait=off").path
        (DebugPlace(path='', host='127.0.0.1', port=1234, waits=True), 'g.sock')
        """
        place, comma, option = text.rpartition(",wait=")
        waits = True
        if not comma:
            place = text
        elif option in ("on", "off"):
            waits = option == "on"
        else:
            raise ConfigurationError(f"--gdb {text!r}: {_FORMS}")
        if place.startswith(_UNIX) and place != _UNIX:
            return cls(path=place.removeprefix(_UNIX), waits=waits)
        host, _, port = place.rpartition(":")
        host = host.removeprefix("[").removesuffix("]") or LOOPBACK
        if not (port.isascii() and port.isdecimal()) or int(port) > _LAST_PORT:
            raise ConfigurationError(f"--gdb {text!r}: {_FORMS}")
        return cls(host=host, port=int(port), waits=waits)


class Listener(Resource):
    """The socket at which a debugger is awaited; a path is removed when it is closed.

    Raises ``ConfigurationError`` for a place at which nobody can listen.
    """

    def __init__(self, place: DebugPlace) -> None:
        self.place = place
        self._owner = os.getpid()
        self.socket = _at_path(place.path) if place.path else _at_port(place)

    @property
    def address(self) -> str:
        """The place as GDB's ``target remote`` takes it."""
        if self.place.path:
            return self.place.path
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        """Listen no more."""
        if self.socket.fileno() < 0:
            return
        self.socket.close()
        if self.place.path and os.getpid() == self._owner:
            try:
                os.unlink(self.place.path)
            except OSError:
                return  # a confined process cannot: see NameRemover


def _at_port(place: DebugPlace) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, address = found[0][0], found[0][4]
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"--gdb {place.host}:{place.port}: {reason}") from None


def _at_path(path: str) -> socket.socket:
    from vmm.host.unix_socket import listening

    return listening(path, "--gdb unix:", _BACKLOG)
