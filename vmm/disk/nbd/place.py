"""Where an NBD server is, and which of its exports is meant: the NBD URI specification.

``nbd://HOST[:PORT]/EXPORT`` and ``nbd+unix:///EXPORT?socket=PATH``, percent-encoded as URIs are.
"""

from __future__ import annotations

import os
import socket
from typing import Final, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from virtio.dataclass import dataclass
from virtio.errors import ConfigurationError

PORT: Final = 10809
FORMS: Final = "nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH"
_NAME_BYTES: Final = 4096  # NBD protocol.md "String lengths"


@dataclass(frozen=True, slots=True)
class NbdPlace:
    """An export of a server at ``host`` and ``port``, or at a UNIX socket of this ``path``."""

    host: str = ""
    port: int = PORT
    path: str = ""
    export: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URI. Raises :class:`ConfigurationError`.

        >>> NbdPlace.parse("nbd://storage:9000/disk%201")
        NbdPlace(host='storage', port=9000, path='', export='disk 1')
        >>> NbdPlace.parse("nbd+unix:///?socket=/run/nbd.sock").url
        'nbd+unix:///?socket=/run/nbd.sock'
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise _wrong(text, str(error)) from None
        if parts.scheme in ("nbds", "nbds+unix"):
            raise _wrong(
                text, "TLS is not offered; lead it through a tunnel, or nbdkit's nbd plugin"
            )
        if parts.scheme not in ("nbd", "nbd+unix"):
            raise _wrong(text, "there is no such scheme")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        export = unquote(parts.path.removeprefix("/"))
        is_unix = parts.scheme == "nbd+unix"
        if parts.fragment or parts.username is not None:
            raise _wrong(text, "no user and no #fragment are possible")
        if set(query) != ({"socket"} if is_unix else set()) or "\0" in unquote(text):
            raise _wrong(text, "?socket=PATH, and nothing else, is for nbd+unix")
        if len(export.encode()) > _NAME_BYTES:
            raise _wrong(text[:60], f"the export's name has more than {_NAME_BYTES} bytes")
        if is_unix:
            if not query["socket"] or parts.netloc:
                raise _wrong(text, "three slashes, and a path behind socket=, are needed")
            return cls(path=query["socket"], export=export)
        if not parts.hostname or port == 0:
            raise _wrong(text, "a host, and a port from 1 to 65535, are needed")
        return cls(parts.hostname, port or PORT, export=export)

    @property
    def url(self) -> str:
        """The URI of this place."""
        export = quote(self.export)
        if self.path:
            return f"nbd+unix:///{export}?socket={quote(self.path)}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"nbd://{host}:{self.port}/{export}"

    @property
    def absolute(self) -> NbdPlace:
        """The same place, named so that it is found from every folder."""
        path = os.path.abspath(self.path) if self.path else ""
        return NbdPlace(self.host, self.port, path, self.export)

    def connect(self, seconds: float) -> socket.socket:
        """Return a socket that is connected to the server. Raises :class:`OSError`."""
        if not self.path:
            made = socket.create_connection((self.host, self.port), seconds)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return made
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(seconds)
            made.connect(self.path)
        except OSError:
            made.close()
            raise
        return made


def _wrong(text: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"disk {text}: {why}; must be {FORMS}")
