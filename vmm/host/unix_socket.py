"""A UNIX socket at which this process listens, made so that only its owner can connect."""

import errno
import os
import socket
import stat
from typing import Final

from virtio.errors import ConfigurationError

_LONGEST_PATH: Final = 107  # unix(7): sun_path has 108 bytes with its NUL


def listening(path: str, what: str, backlog: int, suffix: int = 0) -> socket.socket:
    """Return a socket that listens at ``path``, for nobody but its owner.

    Others at ``path`` and so many bytes more can be named. One that nobody listens at any more is
    replaced. Raises ``ConfigurationError``, which begins with ``what`` and the path, for a path
    that is taken, too long, or cannot be.
    """
    longest = _LONGEST_PATH - suffix
    if len(os.fsencode(path)) > longest:
        raise ConfigurationError(f"{what}{path}: the path may have {longest} bytes at most")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        if _is_left_behind(path):
            os.unlink(path)
        sock.bind(path)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        taken = "there is something already; remove it, or choose another path"
        reason = taken if error.errno == errno.EADDRINUSE else error.strerror
        raise ConfigurationError(f"{what}{path}: {reason}") from error
    finally:
        os.umask(before)
    return sock


def _is_left_behind(path: str) -> bool:
    """Whether there is a socket that nobody listens at, as after a kill."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
