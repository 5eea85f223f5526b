"""One connection to an NBD server: its handshake, and the commands that are under way on it.

Nothing here waits but :meth:`Connection.get_ready`; whoever has a connection waits for its
descriptor beside others. A command's memory must stay until the command has ended, or the
connection is closed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import time
from collections.abc import Callable
from typing import Any, Final

from virtio.named_tuple import NamedTuple
from vmm.disk.nbd.library import (
    NO_CALLBACK,
    NO_HOLE,
    READ,
    SIZE_MAXIMUM,
    SIZE_MINIMUM,
    WRITE,
    library,
)
from vmm.host.resource import Resource

_PART_BYTES: Final = 2 << 20
_PAGE_BYTES: Final = 4096


class LostError(Exception):
    """The server has gone, does not answer, or speaks nonsense; the message says which."""


class Command:
    """A read, write, flush, trim or zero of ``length`` bytes from ``offset``.

    ``memory`` is what is read into or written from. ``flag`` is that of zero: keep the storage.
    """

    __slots__ = ("began", "error", "flag", "kind", "length", "memory", "offset")

    def __init__(
        self, kind: str, memory: Any = None, *, offset: int = 0, length: int = 0, flag: bool = False
    ) -> None:
        self.kind = kind
        self.memory = memory
        self.offset = offset
        self.length = length
        self.flag = flag
        self.began = 0.0
        self.error = 0


class Export(NamedTuple):
    """What a server says of its export."""

    size_bytes: int
    read_only: bool
    block_size: int
    most_bytes: int
    flushes: bool
    trims: bool
    zeroes: bool


class Connection(Resource):
    """A handle of libnbd's over a connected socket, which it owns; all by one thread.

    ``is_ready`` tells whether the handshake is done and commands can be given.
    """

    def __init__(self, fd: int, export: str) -> None:
        self._library = library()
        self._handle = self._library.create()
        self.under_way: dict[int, Command] = {}
        self.is_ready = False
        try:
            self._checked(self._library.set_tls(self._handle, 0))
            self._checked(self._library.set_export_name(self._handle, export.encode()))
        except BaseException:
            os.close(fd)
            self.close()
            raise
        self._begin(fd)

    def _begin(self, fd: int) -> None:
        try:
            self._checked(self._library.aio_connect_socket(self._handle, fd))
        except LostError:  # which closes the socket
            self.close()
            raise
        self._look()  # a quick server has answered all of it by now

    def get_ready(self, seconds: float) -> None:
        """Wait until the handshake is done, for so long at most."""
        end = time.monotonic() + seconds
        while not self.is_ready:
            fd, events = self.waits_for()
            poll = select.poll()
            poll.register(fd, events)
            left = end - time.monotonic()
            found = poll.poll(left * 1000) if left > 0 else []
            if not found:
                raise LostError(f"no answer within {seconds:g} s")
            self.serve(found[0][1])

    def waits_for(self) -> tuple[int, int]:
        """Return the descriptor, and for which events of ``poll`` it waits."""
        direction = self._library.aio_get_direction(self._handle)
        events = (select.POLLIN if direction & READ else 0) | (
            select.POLLOUT if direction & WRITE else 0
        )
        return self._checked(self._library.aio_get_fd(self._handle)), events

    def serve(self, events: int) -> None:
        """Go on after these events. Raises :class:`LostError` when the server is lost."""
        direction = self._library.aio_get_direction(self._handle)
        if direction & READ and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._checked(self._library.aio_notify_read(self._handle))
        elif direction & WRITE and events & (select.POLLOUT | select.POLLHUP | select.POLLERR):
            self._checked(self._library.aio_notify_write(self._handle))
        elif events & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
            raise LostError("the server has closed the connection")
        if self._library.aio_is_dead(self._handle) or self._library.aio_is_closed(self._handle):
            raise LostError("the server has closed the connection")
        self._look()

    def _look(self) -> None:
        self.is_ready = self.is_ready or not (
            self._library.aio_is_connecting(self._handle)
            or self._library.aio_is_negotiating(self._handle)
        )

    def export(self) -> Export:
        """Return what the server said of its export."""
        lib, handle = self._library, self._handle
        most = lib.get_block_size(handle, SIZE_MAXIMUM)
        return Export(
            size_bytes=self._checked(lib.get_size(handle)),
            read_only=self._checked(lib.is_read_only(handle)) == 1,
            block_size=max(1, lib.get_block_size(handle, SIZE_MINIMUM)),
            most_bytes=min(most - most % _PAGE_BYTES, _PART_BYTES)
            if most >= _PAGE_BYTES
            else _PART_BYTES,
            flushes=lib.can_flush(handle) == 1,
            trims=lib.can_trim(handle) == 1,
            zeroes=lib.can_zero(handle) == 1,
        )

    def give(self, command: Command) -> None:
        """Begin a command; it is ``under_way`` until :meth:`ended` returns it."""
        command.error = 0
        command.began = time.monotonic()
        cookie = self._GIVE[command.kind](self, command)
        self.under_way[self._checked(cookie)] = command

    def _read(self, command: Command) -> Any:
        address = ctypes.addressof(command.memory)
        return self._library.aio_pread(
            self._handle, address, command.length, command.offset, NO_CALLBACK, 0
        )

    def _write(self, command: Command) -> Any:
        address = ctypes.cast(ctypes.c_char_p(command.memory), ctypes.c_void_p)
        return self._library.aio_pwrite(
            self._handle, address, command.length, command.offset, NO_CALLBACK, 0
        )

    def _flush(self, command: Command) -> Any:
        return self._library.aio_flush(self._handle, NO_CALLBACK, 0)

    def _trim(self, command: Command) -> Any:
        return self._library.aio_trim(self._handle, command.length, command.offset, NO_CALLBACK, 0)

    def _zero(self, command: Command) -> Any:
        flags = NO_HOLE if command.flag else 0
        return self._library.aio_zero(
            self._handle, command.length, command.offset, NO_CALLBACK, flags
        )

    _GIVE: Final[dict[str, Callable[[Connection, Command], Any]]] = {
        "read": _read,
        "write": _write,
        "flush": _flush,
        "trim": _trim,
        "zero": _zero,
    }

    def ended(self) -> list[Command]:
        """Return the commands that have ended, with the errors that they ended with."""
        found = []
        while self.under_way:
            cookie = self._library.aio_peek_command_completed(self._handle)
            if cookie <= 0:
                break
            result = self._library.aio_command_completed(self._handle, cookie)
            command = self.under_way.pop(cookie)
            if result < 0:
                command.error = self._library.get_errno() or errno.EIO
            found.append(command)
        return found

    def _checked(self, result: int) -> int:
        if result < 0:
            said = self._library.get_error() or b"no reason is given"
            raise LostError(said.decode("utf-8", "replace").split(": ", 1)[-1])
        return result

    def close(self) -> None:
        """Leave the server, with the good bye of the protocol if it takes that without waiting."""
        handle, self._handle = self._handle, None
        if handle is not None:
            if not self.under_way:
                self._library.aio_disconnect(handle, 0)
            self._library.close(handle)
        self.under_way = {}
