"""Compressed streams, unpacked on the host: the forms that Linux knows for kernels and initrds.

Linux lib/decompress.c has their magic numbers; usr/Kconfig and arch/x86/boot/compressed/Makefile
make them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from virtio.errors import ConfigurationError
from vmm.x86.boot.archives import Bytes, Readable

BLOCK: Final = 1 << 20
_INPUT_BYTES: Final = 1 << 16
_ZSTD_INPUT_BYTES: Final = 2048
"""zstandard gives all that a piece unpacks to at once: 128 KiB for each 4 bytes at most."""

_DECODER_MEMORY_MAX: Final = 256 << 20
"""What xz and lzma may use: their largest preset takes 65 MiB."""

_ZSTD_WINDOW_MAX: Final = 1 << 27
_LZ4_MAGIC: Final = 0x184C2102
_LZ4_BLOCK: Final = 8 << 20
_LZ4_COMPRESSED_MAX: Final = _LZ4_BLOCK + _LZ4_BLOCK // 255 + 16


class DamagedError(Exception):
    """The stream cannot be unpacked; the text says why."""


class Source:
    """Reads a compressed stream, up to ``end`` at most.

    ``position`` is behind the stream when it has been unpacked.
    """

    def __init__(self, image: Readable, position: int, end: int) -> None:
        self._image = image
        self._end = end
        self.position = position

    def read(self, length: int) -> bytes:
        """Return the next bytes; fewer at the end."""
        data = self._image.read(self.position, min(length, self._end - self.position))
        self.position += len(data)
        return data


def _pump(source: Source, decoder: Any, errors: type[Exception]) -> Iterator[bytes]:
    """Drive a decoder of ``bz2`` or ``lzma``, which never gives more than a block at a time."""
    while not decoder.eof:
        block = source.read(_INPUT_BYTES) if decoder.needs_input else b""
        if decoder.needs_input and not block:
            raise DamagedError("the data ends too early")
        try:
            yield decoder.decompress(block, BLOCK)
        except errors as error:
            raise DamagedError(str(error)) from error
    source.position -= len(decoder.unused_data)


def _gzip(source: Source) -> Iterator[bytes]:
    import zlib

    decoder = zlib.decompressobj(wbits=31)
    while not decoder.eof:
        block = decoder.unconsumed_tail or source.read(_INPUT_BYTES)
        if not block:
            raise DamagedError("the data ends too early")
        try:
            yield decoder.decompress(block, BLOCK)
        except zlib.error as error:
            raise DamagedError(str(error)) from error
    source.position -= len(decoder.unused_data)


def _bzip2(source: Source) -> Iterator[bytes]:
    import bz2

    return _pump(source, bz2.BZ2Decompressor(), OSError)


def _xz(source: Source) -> Iterator[bytes]:
    import lzma

    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, _DECODER_MEMORY_MAX)
    return _pump(source, decoder, lzma.LZMAError)


def _lzma(source: Source) -> Iterator[bytes]:
    import lzma

    decoder = lzma.LZMADecompressor(lzma.FORMAT_ALONE, _DECODER_MEMORY_MAX)
    return _pump(source, decoder, lzma.LZMAError)


def _zstd(source: Source) -> Iterator[bytes]:
    import zstandard

    context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
    decoder = context.decompressobj()
    while not decoder.eof:
        block = source.read(_ZSTD_INPUT_BYTES)
        if not block:
            raise DamagedError("the data ends too early")
        try:
            yield decoder.decompress(block)
        except zstandard.ZstdError as error:
            raise DamagedError(str(error)) from error
    source.position -= len(decoder.unused_data)


def _lz4(source: Source) -> Iterator[bytes]:
    """Unpack the legacy frame, which has no end: what can be no block comes after it."""
    import lz4.block

    source.read(4)
    while len(head := source.read(4)) == 4:
        size = int.from_bytes(head, "little")
        if size == _LZ4_MAGIC:
            continue
        if not 0 < size <= _LZ4_COMPRESSED_MAX:
            source.position -= 4
            return
        block = source.read(size)
        if len(block) < size:
            raise DamagedError("the data ends too early")
        try:
            yield lz4.block.decompress(block, uncompressed_size=_LZ4_BLOCK)
        except lz4.block.LZ4BlockError as error:
            raise DamagedError(str(error)) from error


Decode = Callable[[Source], Iterator[bytes]]

CODECS: Final[tuple[tuple[bytes, str, Decode], ...]] = (
    (b"\x1f\x8b", "gzip", _gzip),
    (b"\xfd7zXZ\0", "xz", _xz),
    (b"\x5d\0\0", "lzma", _lzma),
    (b"BZh", "bzip2", _bzip2),
    (b"\x02\x21\x4c\x18", "lz4", _lz4),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
)
"""The first bytes of each form, its name, and what unpacks it in blocks."""


def codec_of(head: bytes) -> tuple[str, Decode] | None:
    """Return the name and the decoder of what begins so, or None."""
    for magic, name, decode in CODECS:
        if head.startswith(magic):
            return name, decode
    return None


def unpack(data: bytes, name: str, maximum: int) -> bytes:
    """Return ``data`` unpacked, or as it is when it is in none of these forms.

    Raises :class:`ConfigurationError` when it is damaged or unpacks to more than ``maximum`` bytes.
    """
    codec = codec_of(data[:8])
    if codec is None:
        return data
    form, decode = codec
    parts, size = [], 0
    try:
        for block in decode(Source(Bytes(data, name), 0, len(data))):
            size += len(block)
            if size > maximum:
                raise DamagedError(f"it unpacks to more than {maximum} bytes")
            parts.append(block)
    except DamagedError as error:
        raise ConfigurationError(f"{name}: its {form} data is damaged: {error}") from None
    return b"".join(parts)
