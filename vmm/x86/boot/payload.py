"""The compressed kernel inside a bzImage, unpacked on the host.

A guest would have to unpack it otherwise, and on hosts without hardware virtualization that takes
minutes. The forms are those of Linux ``arch/x86/boot/compressed/Makefile``; behind every one but
gzip, which ends in it anyway, the build writes the unpacked size as 4 bytes, low byte first.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from virtio.errors import ConfigurationError, HostError
from vmm.host.files import write_all
from vmm.x86.boot.image_file import ImageFile

BLOCK = 1 << 20
# Distribution kernels unpack to 40-80 MiB; what says more is not one.
UNPACKED_MAX = 512 << 20
# What xz and lzma may use: their largest preset takes 65 MiB.
DECODER_MEMORY_MAX = 256 << 20
ZSTD_WINDOW_MAX = 1 << 27
LZ4_MAGIC = 0x184C2102
LZ4_BLOCK = 8 << 20
LZ4_COMPRESSED_MAX = LZ4_BLOCK + LZ4_BLOCK // 255 + 16


class _DamagedError(Exception):
    """The stream cannot be unpacked; the text says why."""


class _Source:
    """Sequential reader of the compressed bytes, with the ``read`` that decoders expect."""

    def __init__(self, image: ImageFile, offset: int, length: int) -> None:
        self._image = image
        self._position = offset
        self._end = offset + length

    def read(self, length: int = BLOCK) -> bytes:
        data = self._image.read(self._position, min(length, self._end - self._position))
        self._position += len(data)
        return data


@contextmanager
def unpacked(image: ImageFile, offset: int, length: int) -> Iterator[ImageFile]:
    """Unpack ``length`` bytes at ``offset`` of ``image`` to an anonymous file of the host.

    Raises :class:`ConfigurationError` when the form is not known, or the bytes are damaged or
    unpack to another size than they declare.
    """
    name, trailer, decode = _codec(image, offset)
    size = _declared_size(image, offset, length)
    fd = os.memfd_create("kernel", os.MFD_CLOEXEC)
    try:
        try:
            _write(fd, decode(_Source(image, offset, length - trailer)), size)
        except _DamagedError as error:
            raise ConfigurationError(
                f"{image.name}: its {name} payload is truncated or damaged: {error}"
            ) from error
        yield ImageFile(fd, f"{image.name} (unpacked)")
    finally:
        os.close(fd)


def _declared_size(image: ImageFile, offset: int, length: int) -> int:
    if length < 8:
        raise ConfigurationError(f"{image.name}: its payload has only {length} bytes")
    size = int.from_bytes(image.read(offset + length - 4, 4), "little")
    if not 0 < size <= UNPACKED_MAX:
        raise ConfigurationError(
            f"{image.name}: its payload is truncated or damaged: it declares {size} bytes "
            f"unpacked, must be 1 to {UNPACKED_MAX}"
        )
    return size


def _write(fd: int, blocks: Iterator[bytes], size: int) -> None:
    position = 0
    for block in blocks:
        if position + len(block) > size:
            raise _DamagedError(f"it unpacks to more than the {size} bytes that it declares")
        try:
            write_all(fd, block)
        except OSError as error:
            raise HostError("write", error.errno or 0, "unpacked kernel") from error
        position += len(block)
    if position != size:
        raise _DamagedError(f"it unpacks to {position} bytes and declares {size}")


def _pump(source: _Source, decoder: Any, errors: type[Exception]) -> Iterator[bytes]:
    """Drive a decoder of ``bz2`` or ``lzma``, which never gives more than a block at a time."""
    while not decoder.eof:
        block = source.read() if decoder.needs_input else b""
        if decoder.needs_input and not block:
            raise _DamagedError("the data ends too early")
        try:
            yield decoder.decompress(block, BLOCK)
        except errors as error:
            raise _DamagedError(str(error)) from error


def _gzip(source: _Source) -> Iterator[bytes]:
    import zlib

    decoder = zlib.decompressobj(wbits=31)
    while not decoder.eof:
        block = decoder.unconsumed_tail or source.read()
        if not block:
            raise _DamagedError("the data ends too early")
        try:
            yield decoder.decompress(block, BLOCK)
        except zlib.error as error:
            raise _DamagedError(str(error)) from error


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

    decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_MAX)
    # The annotations ask for a file; all that is called is read().
    reader = decoder.stream_reader(cast(IO[bytes], source))
    try:
        while block := reader.read(BLOCK):
            yield block
    except zstandard.ZstdError as error:
        raise _DamagedError(str(error)) from error


def _lz4(source: _Source) -> Iterator[bytes]:
    """Unpack the legacy frame: blocks of up to 8 MiB, each behind its compressed size."""
    import lz4.block

    while head := source.read(4):
        size = int.from_bytes(head, "little")
        if size == LZ4_MAGIC:
            continue
        if not 0 < size <= LZ4_COMPRESSED_MAX:
            raise _DamagedError(f"a block has {size} bytes, must be 1 to {LZ4_COMPRESSED_MAX}")
        block = source.read(size)
        if len(block) < size:
            raise _DamagedError("the data ends too early")
        try:
            yield lz4.block.decompress(block, uncompressed_size=LZ4_BLOCK)
        except lz4.block.LZ4BlockError as error:
            raise _DamagedError(str(error)) from error


Decode = Callable[[_Source], Iterator[bytes]]

# Magic, name, bytes behind the stream that are not part of it, decoder.
_CODECS: tuple[tuple[bytes, str, int, Decode], ...] = (
    (b"\x1f\x8b", "gzip", 0, _gzip),
    (b"\xfd7zXZ\0", "xz", 4, _xz),
    (b"\x5d\0\0", "lzma", 4, _lzma),
    (b"BZh", "bzip2", 4, _bzip2),
    (b"\x02\x21\x4c\x18", "lz4", 4, _lz4),
    (b"\x28\xb5\x2f\xfd", "zstd", 4, _zstd),
)


def _codec(image: ImageFile, offset: int) -> tuple[str, int, Decode]:
    head = image.read(offset, 8)
    for magic, name, trailer, decode in _CODECS:
        if head.startswith(magic):
            return name, trailer, decode
    known = ", ".join(name for _, name, _, _ in _CODECS)
    raise ConfigurationError(
        f"{image.name}: its payload starts with bytes {head.hex(' ')}, which is none of {known}"
    )
