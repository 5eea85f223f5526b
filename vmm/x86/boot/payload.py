"""The compressed kernel inside a bzImage, unpacked on the host.

A guest would have to unpack it otherwise, and on hosts without hardware virtualization that takes
minutes. The forms are those of Linux ``arch/x86/boot/compressed/Makefile``; behind every one but
gzip, which ends in it anyway, the build writes the unpacked size as 4 bytes, low byte first.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from virtio.errors import ConfigurationError, HostError
from vmm.host.files import write_all
from vmm.x86.boot.decompression import CODECS, DamagedError, Decode, Source, codec_of
from vmm.x86.boot.image_file import ImageFile

# Distribution kernels unpack to 40-80 MiB; what says more is not one.
UNPACKED_MAX = 512 << 20
SIZE_BYTES = 4


@contextmanager
def unpacked(image: ImageFile, offset: int, length: int) -> Iterator[ImageFile]:
    """Unpack ``length`` bytes at ``offset`` of ``image`` to an anonymous file of the host.

    Raises :class:`ConfigurationError` when the form is not known, or the bytes are damaged or
    unpack to another size than they declare.
    """
    name, decode = _codec(image, offset)
    size = _declared_size(image, offset, length)
    end = offset + length - (0 if name == "gzip" else SIZE_BYTES)
    fd = os.memfd_create("kernel", os.MFD_CLOEXEC)
    try:
        try:
            _write(fd, decode(Source(image, offset, end)), size)
        except DamagedError as error:
            raise ConfigurationError(
                f"{image.name}: its {name} payload is truncated or damaged: {error}"
            ) from error
        yield ImageFile(fd, f"{image.name} (unpacked)")
    finally:
        os.close(fd)


def _declared_size(image: ImageFile, offset: int, length: int) -> int:
    if length < 8:
        raise ConfigurationError(f"{image.name}: its payload has only {length} bytes")
    size = int.from_bytes(image.read(offset + length - SIZE_BYTES, SIZE_BYTES), "little")
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
            raise DamagedError(f"it unpacks to more than the {size} bytes that it declares")
        try:
            write_all(fd, block)
        except OSError as error:
            raise HostError("write", error.errno or 0, "unpacked kernel") from error
        position += len(block)
    if position != size:
        raise DamagedError(f"it unpacks to {position} bytes and declares {size}")


def _codec(image: ImageFile, offset: int) -> tuple[str, Decode]:
    head = image.read(offset, 8)
    codec = codec_of(head)
    if codec is None:
        known = ", ".join(name for _, name, _ in CODECS)
        raise ConfigurationError(
            f"{image.name}: its payload starts with bytes {head.hex(' ')}, which is none of {known}"
        )
    return codec
