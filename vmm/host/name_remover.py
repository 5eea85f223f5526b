"""A process that removes a name for another one, which is confined and cannot."""

import os
import signal
import socket
from contextlib import suppress
from typing import Final

from vmm.host.resource import Resource

_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class NameRemover(Resource):
    """Has ``path``, which is there, removed when this is closed, or when this process ends anyhow.

    Make it while this process has one thread, and before it is confined. What somebody else has put
    there meanwhile stays.
    """

    def __init__(self, path: str) -> None:
        path = os.path.abspath(path)
        found = os.lstat(path)
        self._socket, theirs = socket.socketpair()
        if not os.fork():
            try:
                _serve(path, (found.st_dev, found.st_ino), theirs)
            finally:
                os._exit(0)
        theirs.close()

    def close(self) -> None:
        """Have it removed now; nobody may wait for a process in a sandbox, but for its word."""
        if self._socket.fileno() < 0:
            return
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.recv(1)
        self._socket.close()


def _serve(path: str, ours: tuple[int, int], asked: socket.socket) -> None:
    for number in _IGNORED:  # it ends with the one that it works for
        signal.signal(number, signal.SIG_IGN)
    fd = asked.fileno()
    os.closerange(0, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
    asked.recv(1)
    with suppress(OSError):
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == ours:
            os.unlink(path)
