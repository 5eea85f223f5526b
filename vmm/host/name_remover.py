"""A process that removes a name for another one, which is confined and cannot."""

import os
import socket
from contextlib import suppress

from vmm.host.outside_process import OutsideProcess


class NameRemover(OutsideProcess):
    """Has ``path``, which is there, removed when this is closed, or when this process ends anyhow.

    What somebody else has put there meanwhile stays.
    """

    def __init__(self, path: str) -> None:
        path = os.path.abspath(path)
        found = os.lstat(path)

        def remove_at_end(asked: socket.socket) -> None:
            asked.recv(1)
            with suppress(OSError):
                now = os.lstat(path)
                if os.path.samestat(now, found):
                    os.unlink(path)

        super().__init__(remove_at_end)
