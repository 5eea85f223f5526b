"""The C library libnbd, with what is used of it: libnbd(3).

By ``ctypes``, as Debian has no module of it for other Pythons than the system's. No callback of
ours is ever called: a confined process makes no memory executable, which they would need.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Final

from virtio.errors import ConfigurationError

NAME: Final = "libnbd.so.0"

READ: Final = 1
WRITE: Final = 2
"""LIBNBD_AIO_DIRECTION_*."""
SIZE_MINIMUM: Final = 0
SIZE_MAXIMUM: Final = 2
NO_HOLE: Final = 2
"""LIBNBD_CMD_FLAG_NO_HOLE."""


class Completion(ctypes.Structure):
    """``nbd_completion_callback``: callback, user_data, free; three pointers, here all NULL."""

    _fields_ = (
        ("callback", ctypes.c_void_p),
        ("user_data", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )


NO_CALLBACK: Final = Completion()

_HANDLE: Final = ctypes.c_void_p
_U64: Final = ctypes.c_uint64
_I64: Final = ctypes.c_int64
_INT: Final = ctypes.c_int
_LAST: Final = (Completion, ctypes.c_uint32)

_FUNCTIONS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "create": (_HANDLE, ()),
    "close": (None, (_HANDLE,)),
    "get_error": (ctypes.c_char_p, ()),
    "get_errno": (_INT, ()),
    "set_export_name": (_INT, (_HANDLE, ctypes.c_char_p)),
    "set_tls": (_INT, (_HANDLE, _INT)),
    "aio_connect_socket": (_INT, (_HANDLE, _INT)),
    "aio_get_fd": (_INT, (_HANDLE,)),
    "aio_get_direction": (ctypes.c_uint, (_HANDLE,)),
    "aio_notify_read": (_INT, (_HANDLE,)),
    "aio_notify_write": (_INT, (_HANDLE,)),
    "aio_is_ready": (_INT, (_HANDLE,)),
    "aio_is_connecting": (_INT, (_HANDLE,)),
    "aio_is_negotiating": (_INT, (_HANDLE,)),
    "aio_is_dead": (_INT, (_HANDLE,)),
    "aio_is_closed": (_INT, (_HANDLE,)),
    "aio_disconnect": (_INT, (_HANDLE, ctypes.c_uint32)),
    "aio_command_completed": (_INT, (_HANDLE, _U64)),
    "aio_peek_command_completed": (_I64, (_HANDLE,)),
    "get_size": (_I64, (_HANDLE,)),
    "get_block_size": (_I64, (_HANDLE, _INT)),
    "is_read_only": (_INT, (_HANDLE,)),
    "can_flush": (_INT, (_HANDLE,)),
    "can_trim": (_INT, (_HANDLE,)),
    "can_zero": (_INT, (_HANDLE,)),
    "aio_pread": (_I64, (_HANDLE, ctypes.c_void_p, ctypes.c_size_t, _U64, *_LAST)),
    "aio_pwrite": (_I64, (_HANDLE, ctypes.c_void_p, ctypes.c_size_t, _U64, *_LAST)),
    "aio_flush": (_I64, (_HANDLE, *_LAST)),
    "aio_trim": (_I64, (_HANDLE, _U64, _U64, *_LAST)),
    "aio_zero": (_I64, (_HANDLE, _U64, _U64, *_LAST)),
}


@functools.cache
def library() -> Any:
    """Return the library, whose functions have no prefix in their names here.

    Raises :class:`ConfigurationError` where it is not installed.
    """
    try:
        found = ctypes.CDLL(NAME)
    except OSError:
        raise ConfigurationError("libnbd is needed: apt install libnbd0") from None
    return _Library(found)


class _Library:
    """All functions, found at once: a confined process opens no library."""

    def __init__(self, found: ctypes.CDLL) -> None:
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(found, f"nbd_{name}")
            function.restype = result
            function.argtypes = arguments
            setattr(self, name, function)
