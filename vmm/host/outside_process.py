"""A process that does for a confined one what that may not do itself, and nothing else."""

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from vmm.host.resource import Resource

_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class OutsideProcess(Resource):
    """Starts a process that calls ``serve`` with its end of ``socket``, and ends when that returns.

    It has nothing else open, and learns by the end of its socket that this process ended, however
    that was. ``socket`` keeps the borders of messages. Make it while this process has one thread,
    and before it is confined.
    """

    def __init__(self, serve: Callable[[socket.socket], object]) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if not os.fork():
            try:
                _leave_all_but(theirs.fileno())
                serve(theirs)
            finally:
                os._exit(0)
        theirs.close()

    def close(self) -> None:
        """End the process, and return when it has done all; nobody may wait for it in a sandbox."""
        if self.socket.fileno() < 0:
            return
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.recv(1)
        self.socket.close()


def _leave_all_but(fd: int) -> None:
    for number in _IGNORED:  # it ends with the one that it works for
        signal.signal(number, signal.SIG_IGN)
    os.closerange(0, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
