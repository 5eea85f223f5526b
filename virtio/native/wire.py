"""A descriptor that packets pass through, as ``net.c`` knows it, and what is on its way there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from virtio.native._native import ffi, lib
from virtio.native.data_path import DataPath

NONE: Final = int(lib.NONE)
EVERY: Final = int(lib.EVERY)
OWN: Final = int(lib.OWN)
LISTED: Final = int(lib.LISTED)
"""Which addresses the driver wants: none, all, its own, or those of a table of Python's, too."""


class Wire:
    """The descriptor of a queue pair; ``struct`` is what C knows of it, as ``native.h`` says."""

    __slots__ = ("_in", "_out", "struct")

    def __init__(self, fd: int, framed: bool) -> None:
        self.struct: Any = ffi.new("struct wire *")
        # A tap's holds one packet; there may be 256 of them.
        self._in = ffi.new("uint8_t[]", lib.WIRE_BYTES if framed else lib.WIRE_BYTES // 3)
        self._out = ffi.new("uint8_t[]", lib.WIRE_BYTES if framed else 1)
        self.struct.fd, self.struct.framed = fd, framed
        setattr(self.struct, "in", self._in)
        self.struct.out = self._out

    def transmit_path(self, settle: Callable[[int], None]) -> DataPath:
        """Return the path of packets from the guest."""
        return self._path(DataPath(lib.TRANSMIT, self, settle=settle))

    def receive_path(self, settle: Callable[[int], None]) -> DataPath:
        """Return the path of packets to the guest."""
        return self._path(DataPath(lib.RECEIVE, self, settle=settle))

    def _path(self, path: DataPath) -> DataPath:
        path.device.wire = self.struct
        return path

    def take_read(self) -> bytes:
        """Take what was read and has not gone to the guest."""
        struct = self.struct
        data: bytes = ffi.buffer(self._in)[struct.begin : struct.end]
        struct.begin = struct.end = 0
        return data

    def give_read(self, data: bytes) -> None:
        """Have the beginning of a frame, before anything else is read."""
        self.struct.begin, self.struct.end = 0, len(data)
        ffi.memmove(self._in, data, len(data))

    def take_unsent(self) -> bytes:
        """Take what the stream had no room for."""
        data: bytes = ffi.buffer(self._out)[: self.struct.sending]
        self.struct.sending = 0
        return data

    def take_counts(self) -> tuple[int, int, int, int]:
        """Take what was counted: packets sent, received, filtered and unfit."""
        struct = self.struct
        counts = struct.sent, struct.received, struct.filtered, struct.unfit
        struct.sent = struct.received = struct.filtered = struct.unfit = 0
        return counts
