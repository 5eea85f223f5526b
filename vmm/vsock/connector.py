"""A process that connects to the host's programs for a machine which may not do that itself.

A confined machine names no file, UNIX sockets among them: it could reach every service of its user.
So a process outside, which was made before and gets nothing from the guest but port numbers,
connects to ``PATH_N`` alone, and hands the socket over. unix(7) "SCM_RIGHTS".
"""

import os
import socket
from contextlib import suppress
from functools import partial
from struct import Struct
from typing import Final

from vmm.host.outside_process import OutsideProcess
from vmm.vsock.unix import connect_to

ANSWER_SECONDS: Final = 2.0

_PORT: Final = Struct("=I")
_REMOVE: Final = b"remove"
_ERROR: Final = Struct("=i")


class Connector(OutsideProcess):
    """Starts the process. ``path`` is that of :class:`UnixSockets`."""

    def __init__(self, path: str) -> None:
        super().__init__(partial(_serve, path))
        self.socket.settimeout(ANSWER_SECONDS)

    def connect(self, port: int) -> socket.socket:
        """Return a socket that is connected to whoever listens for this port.

        Raises :class:`OSError` when there is nobody.
        """
        self.socket.send(_PORT.pack(port))
        answer, fds, _, _ = socket.recv_fds(self.socket, _ERROR.size, 1)
        if not fds:
            number = _ERROR.unpack(answer)[0] if answer else 0
            raise OSError(number, os.strerror(number))
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fds[0])

    def remove_at_end(self) -> None:
        """Have the socket's name removed in the end, which a confined process cannot do."""
        self.socket.send(_REMOVE)


def _serve(path: str, asked: socket.socket) -> None:
    is_ours = False
    while asking := asked.recv(len(_REMOVE)):
        if asking == _REMOVE:
            is_ours = True
            continue
        try:
            with connect_to(path, *_PORT.unpack(asking)) as sock:
                socket.send_fds(asked, [_ERROR.pack(0)], [sock.fileno()])
        except OSError as error:
            asked.send(_ERROR.pack(error.errno or 0))
    if is_ours:
        with suppress(FileNotFoundError):
            os.unlink(path)
