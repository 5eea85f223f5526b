"""A file descriptor that threads use while its owner may close it."""

import errno
import os
import threading


class HeldFile:
    """Closes ``fd`` when its owner has closed this, and no call uses it any more.

    A call that waits for its disk may come back after the machine has ended; the number of its
    descriptor must not have become another file's by then. A context manager, which gives ``fd``
    for the time of one call. Raises :class:`OSError` for a file that is closed.
    """

    __slots__ = ("_closed", "_lock", "_users", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    def __enter__(self) -> int:
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the disk is closed")
            self._users += 1
        return self.fd

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            last = self._closed and not self._users
        if last:
            os.close(self.fd)

    def close(self) -> None:
        """Close it as soon as no call uses it; harmless the second time."""
        with self._lock:
            last = not self._closed and not self._users
            self._closed = True
        if last:
            os.close(self.fd)

    def detach(self) -> int:
        """Return the descriptor, which is the caller's from now on."""
        with self._lock:
            self._closed = True
        return self.fd
