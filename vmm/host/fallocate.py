"""``fallocate(2)`` with its modes, which Python's ``os`` module does not offer."""

import errno
import functools
import os
from collections.abc import Callable
from typing import Final

FALLOC_FL_KEEP_SIZE: Final = 0x01
FALLOC_FL_PUNCH_HOLE: Final = 0x02
FALLOC_FL_ZERO_RANGE: Final = 0x10


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Give the storage of a range back, so that it reads as zeros.

    Returns whether the file can do that at all; raises :class:`OSError` for any other failure.
    """
    return _fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)


def zero_range(fd: int, offset: int, length: int) -> bool:
    """Make a range read as zeros with its storage kept; answers as :func:`punch_hole` does."""
    return _fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Change the storage of a range: fallocate(2); raises :class:`OSError`."""
    while code := _libc_fallocate()(fd, mode, offset, length):
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def _fallocate(fd: int, mode: int, offset: int, length: int) -> bool:
    try:
        fallocate(fd, mode, offset, length)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise
    return True


@functools.cache
def _libc_fallocate() -> Callable[[int, int, int, int], int]:
    """Return libc's function, answering with the errno. The import is late, as it is slow."""
    import ctypes

    function = ctypes.CDLL(None, use_errno=True).fallocate64
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return lambda *arguments: ctypes.get_errno() if function(*arguments) else 0
