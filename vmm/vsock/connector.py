"""A process that connects to the host's programs for a machine which may not do that itself.

A confined machine names no file, UNIX sockets among them: it could reach every service of its user.
So a process outside, which was made before and gets nothing from the guest but port numbers,
connects to ``PATH_N`` alone, and hands the socket over. unix(7) "SCM_RIGHTS".
"""

import os
import signal
import socket
from contextlib import suppress
from struct import Struct
from typing import Final

from vmm.host.resource import Resource
from vmm.vsock.unix import connect_to

ANSWER_SECONDS: Final = 2.0

_PORT: Final = Struct("=I")
_REMOVE: Final = b"remove"
_ERROR: Final = Struct("=i")
_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Connector(Resource):
    """Starts the process, which ends with this one, or when it is closed.

    Make it while this process has one thread. ``path`` is that of :class:`UnixSockets`.
    """

    def __init__(self, path: str) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if not os.fork():
            try:
                _serve(path, theirs)
            finally:
                os._exit(0)
        theirs.close()
        self._socket.settimeout(ANSWER_SECONDS)

    def connect(self, port: int) -> socket.socket:
        """Return a socket that is connected to whoever listens for this port.

        Raises :class:`OSError` when there is nobody.
        """
        self._socket.send(_PORT.pack(port))
        answer, fds, _, _ = socket.recv_fds(self._socket, _ERROR.size, 1)
        if not fds:
            number = _ERROR.unpack(answer)[0] if answer else 0
            raise OSError(number, os.strerror(number))
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fds[0])

    def remove_at_end(self) -> None:
        """Have the socket's name removed in the end, which a confined process cannot do."""
        self._socket.send(_REMOVE)

    def close(self) -> None:
        """End the process, and return when it has done all; nobody may wait for it in a sandbox."""
        if self._socket.fileno() < 0:
            return
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.recv(1)
        self._socket.close()


def _serve(path: str, asked: socket.socket) -> None:
    for number in _IGNORED:  # it ends with the one that it works for
        signal.signal(number, signal.SIG_IGN)
    fd = asked.fileno()
    os.closerange(3, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
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
