"""Data paths: how native code serves the ordinary chains of a device, from ring to host and back.

Importing it raises ``ImportError`` where the C part was not built; :mod:`virtio.engine` chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from os import strerror

from virtio.native._native import ffi, lib


class DataPath:
    """Serves ordinary chains of a device without Python: one row of the table of kinds in C.

    ``device`` is what C has to know of the device. Whatever it points to is kept in ``keeps``.
    ``settle``, if there is one, is called after each turn of C with the reason why that ended.
    """

    __slots__ = ("device", "keeps", "settle")

    def __init__(
        self, kind: int, *keeps: object, settle: Callable[[int], None] | None = None
    ) -> None:
        self.keeps = keeps
        self.settle = settle
        self.device = ffi.new("struct device *")
        self.device.kind = kind


def block_path(fd: int, *, sectors: int, writable: bool, may_wait: bool) -> DataPath:
    """Return the path that reads and writes ``fd``, which is the disk byte for byte.

    ``writable`` says whether a write is done when it is written, with nothing to do after it,
    ``may_wait`` whether a read may have to wait: such a one is left to Python.
    """
    path = DataPath(lib.BLOCK)
    path.device.fd, path.device.sectors = fd, sectors
    path.device.writable, path.device.may_wait = writable, may_wait
    return path


def entropy_path(source: RandomBytes) -> DataPath:
    """Return the path that fills buffers from a source, as :class:`Entropy` does."""
    path = DataPath(lib.ENTROPY, source)
    path.device.generator = source.generator
    return path


class RandomBytes:
    """The kernel's random generator: called with a number, it returns so many bytes, or 64 KiB.

    With ``in_process`` it does so without system calls, where the kernel offers that. It serves one
    thread at a time.
    """

    __slots__ = ("_buffer", "_bytes", "generator")

    def __init__(self, *, in_process: bool = True) -> None:
        self.generator = ffi.gc(lib.open_generator(in_process), lib.close_generator)
        self._buffer = ffi.new("uint8_t[]", lib.RANDOM_BYTES)
        self._bytes = ffi.buffer(self._buffer)

    def __call__(self, count: int) -> bytes:
        """Return that many bytes. Raises :class:`OSError` where the host has none to give."""
        given = lib.random_bytes(self.generator, self._buffer, min(count, lib.RANDOM_BYTES))
        if given < 0:
            raise OSError(-given, strerror(-given))
        data: bytes = self._bytes[:given]
        return data
