"""A process that connects to an NBD server again, for a machine which may not do that itself.

A confined machine makes no sockets and names no file. So a process outside, which was made before
and gets nothing of the guest's, connects to this one server when it is asked, and hands the socket
over. unix(7) "SCM_RIGHTS".

It is started as a program of its own, as a machine may have threads, and leaves its parent, as a
confined process waits for no other. It ends when its socket's other end is closed.
"""

import os
import socket
import subprocess
import sys
from struct import Struct
from typing import Final

from vmm.disk.nbd.place import NbdPlace
from vmm.host.resource import Resource

CONNECT_SECONDS: Final = 5.0

_ERROR: Final = Struct("=i")
_ASKED: Final = b"connect"
_START_SECONDS: Final = 30.0


class Connector(Resource):
    """Starts the process. ``fd`` becomes readable when there is an answer."""

    def __init__(self, place: NbdPlace) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            subprocess.run(
                [sys.executable, "-m", __name__, str(theirs.fileno()), place.url],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                timeout=_START_SECONDS,
                check=True,
            )
        self._socket = ours
        self.fd = ours.fileno()

    def ask(self) -> None:
        """Ask for a connection."""
        self._socket.send(_ASKED)

    def answer(self) -> int:
        """Return the descriptor of a connected socket. Raises :class:`OSError` when there is none.

        To be called when the answer is there.
        """
        answer, fds, _, _ = socket.recv_fds(self._socket, _ERROR.size, 1)
        if fds:
            return fds[0]
        number = _ERROR.unpack(answer)[0] if answer else 0
        raise OSError(number, os.strerror(number) if number else "there is no connection")

    def close(self) -> None:
        """End the process; harmless the second time."""
        self._socket.close()


def _serve(asked: socket.socket, place: NbdPlace) -> None:
    while asked.recv(len(_ASKED)):
        try:
            with place.connect(CONNECT_SECONDS) as sock:
                socket.send_fds(asked, [_ERROR.pack(0)], [sock.fileno()])
        except OSError as error:
            asked.send(_ERROR.pack(error.errno or 0))


def main() -> None:
    """Serve in the background, on the descriptor and for the place of the command line."""
    if os.fork():
        os._exit(0)
    os.chdir("/")
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        _serve(asked, NbdPlace.parse(sys.argv[2]))


if __name__ == "__main__":
    main()
