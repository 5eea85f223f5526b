"""The compressed parts of an initial RAM disk, unpacked on the host, as those of kernels are.

A guest's kernel may lack the decompressor (ours has none), and on hosts without hardware
virtualization takes minutes. An initrd is archives one after the other, each plain or compressed,
with zeros between them: often processors' microcode first, which must stay plain (Linux
driver-api/early-userspace/buffer-format.rst "initramfs buffer format"; arch/x86/microcode.rst).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from virtio.errors import ConfigurationError, HostError
from virtio.log import Logger
from vmm.host.files import write_all
from vmm.x86.boot.archives import Readable, plain_end, zeros_end
from vmm.x86.boot.image_file import ImageFile
from vmm.x86.boot.payload import (
    BLOCK,
    DECODER_MEMORY_MAX,
    LZ4_BLOCK,
    LZ4_COMPRESSED_MAX,
    LZ4_MAGIC,
    ZSTD_WINDOW_MAX,
)

logger = Logger(__name__)

_ALIGNMENT: Final = 4
_INPUT_BYTES: Final = 1 << 16
_ZSTD_INPUT_BYTES: Final = 2048
"""zstandard gives all that a piece unpacks to at once: 128 KiB for each 4 bytes at most."""


class _DamagedError(Exception):
    """The stream cannot be unpacked; the text says why."""


class _TooLargeError(Exception):
    """It unpacks to more than there is room for."""


@contextmanager
def unpacked(image: Readable, room: int) -> Iterator[Readable]:
    """Give the initrd with every part of it plain, in an anonymous file of the host.

    The image itself comes back when nothing in it is compressed, or when it would have more than
    ``room`` bytes: then it is the guest's to unpack. Raises :class:`ConfigurationError` that says
    where it is damaged.
    """
    first = plain_end(image, 0)
    if _codec(image, first) is None:
        yield image
        return
    fd = os.memfd_create("initrd", os.MFD_CLOEXEC)
    try:
        try:
            _unpack(image, first, _Target(fd, room))
            yield ImageFile(fd, f"{image.name} (unpacked)")
        except _TooLargeError:
            logger.warning(
                "%s: unpacks to more than %d bytes, half of the room for it: left to the guest's"
                " kernel, if that can; more RAM helps",
                image.name,
                room,
            )
            yield image
    finally:
        os.close(fd)


class _Target:
    """The file that takes what is unpacked, up to a number of bytes."""

    def __init__(self, fd: int, room: int) -> None:
        self._fd = fd
        self._left = room
        self._size = 0

    def write(self, data: bytes) -> None:
        self._left -= len(data)
        self._size += len(data)
        if self._left < 0:
            raise _TooLargeError
        try:
            write_all(self._fd, data)
        except OSError as error:
            raise HostError("write", error.errno or 0, "unpacked initrd") from error

    def align(self) -> None:
        self.write(bytes(-self._size % _ALIGNMENT))


def _unpack(image: Readable, end: int, target: _Target) -> None:
    """Write an initrd, whose first compressed part begins at ``end``."""
    start = 0
    while True:
        _copy(image, start, end, target)
        target.align()
        codec = _codec(image, end)
        if codec is None:
            _copy(image, end, image.size, target)  # an end that Linux may understand
            return
        name, decode = codec
        source = _Source(image, end)
        try:
            for block in decode(source):
                target.write(block)
        except _DamagedError as error:
            raise ConfigurationError(
                f"{image.name}: its {name} data at byte {end} is truncated or damaged: {error}"
            ) from None
        target.align()
        # The zeros up to the next one would not bring it to a multiple of 4 any more.
        start = zeros_end(image, source.position)
        end = plain_end(image, start)


def _copy(image: Readable, start: int, end: int, target: _Target) -> None:
    for offset in range(start, end, BLOCK):
        target.write(image.read(offset, min(BLOCK, end - offset)))


class _Source:
    """Reads a compressed stream; ``position`` is behind it when it has been unpacked."""

    def __init__(self, image: Readable, position: int) -> None:
        self._image = image
        self.position = position

    def read(self, length: int) -> bytes:
        data = self._image.read(self.position, length)
        self.position += len(data)
        return data


def _pump(source: _Source, decoder: Any, errors: type[Exception]) -> Iterator[bytes]:
    """Drive a decoder of ``bz2`` or ``lzma``, which never gives more than a block at a time."""
    while not decoder.eof:
        block = source.read(_INPUT_BYTES) if decoder.needs_input else b""
        if decoder.needs_input and not block:
            raise _DamagedError("the data ends too early")
        try:
            yield decoder.decompress(block, BLOCK)
        except errors as error:
            raise _DamagedError(str(error)) from error
    source.position -= len(decoder.unused_data)


def _gzip(source: _Source) -> Iterator[bytes]:
    import zlib

    decoder = zlib.decompressobj(wbits=31)
    while not decoder.eof:
        block = decoder.unconsumed_tail or source.read(_INPUT_BYTES)
        if not block:
            raise _DamagedError("the data ends too early")
        try:
            yield decoder.decompress(block, BLOCK)
        except zlib.error as error:
            raise _DamagedError(str(error)) from error
    source.position -= len(decoder.unused_data)


def _bzip2(source: _Source) -> Iterator[bytes]:
    import bz2

    return _pump(source, bz2.BZ2Decompressor(), OSError)


def _xz(source: _Source) -> Iterator[bytes]:
    import lzma

    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, DECODER_MEMORY_MAX)
    return _pump(source, decoder, lzma.LZMAError)


def _lzma(source: _Source) -> Iterator[bytes]:
    import lzma

    decoder = lzma.LZMADecompressor(lzma.FORMAT_ALONE, DECODER_MEMORY_MAX)
    return _pump(source, decoder, lzma.LZMAError)


def _zstd(source: _Source) -> Iterator[bytes]:
    import zstandard

    context = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_MAX)
    decoder = context.decompressobj()
    while not decoder.eof:
        block = source.read(_ZSTD_INPUT_BYTES)
        if not block:
            raise _DamagedError("the data ends too early")
        try:
            yield decoder.decompress(block)
        except zstandard.ZstdError as error:
            raise _DamagedError(str(error)) from error
    source.position -= len(decoder.unused_data)


def _lz4(source: _Source) -> Iterator[bytes]:
    """Unpack the legacy frame, which has no end: what can be no block comes after it."""
    import lz4.block

    source.read(4)
    while len(head := source.read(4)) == 4:
        size = int.from_bytes(head, "little")
        if size == LZ4_MAGIC:
            continue
        if not 0 < size <= LZ4_COMPRESSED_MAX:
            source.position -= 4
            return
        block = source.read(size)
        if len(block) < size:
            raise _DamagedError("the data ends too early")
        try:
            yield lz4.block.decompress(block, uncompressed_size=LZ4_BLOCK)
        except lz4.block.LZ4BlockError as error:
            raise _DamagedError(str(error)) from error


_CODECS: Final[tuple[tuple[bytes, str, Callable[[_Source], Iterator[bytes]]], ...]] = (
    (b"\x1f\x8b", "gzip", _gzip),
    (b"\xfd7zXZ\0", "xz", _xz),
    (b"\x5d\0\0", "lzma", _lzma),
    (b"BZh", "bzip2", _bzip2),
    (b"\x02\x21\x4c\x18", "lz4", _lz4),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
)
_LZ4_FRAME: Final = b"\x04\x22\x4d\x18"


def _codec(image: Readable, offset: int) -> tuple[str, Callable[[_Source], Iterator[bytes]]] | None:
    head = image.read(offset, 8)
    for magic, name, decode in _CODECS:
        if head.startswith(magic):
            return name, decode
    if head.startswith(_LZ4_FRAME):
        raise ConfigurationError(
            f"{image.name}: is in lz4's frame format, which Linux does not unpack: use lz4 -l"
        )
    return None
