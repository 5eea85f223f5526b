"""The compressed parts of an initial RAM disk, unpacked on the host, as those of kernels are.

A guest's kernel may lack the decompressor (ours has none), and on hosts without hardware
virtualization takes minutes. An initrd is archives one after the other, each plain or compressed,
with zeros between them: often processors' microcode first, which must stay plain (Linux
driver-api/early-userspace/buffer-format.rst "initramfs buffer format"; arch/x86/microcode.rst).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from virtio.errors import ConfigurationError, HostError
from virtio.log import Logger
from vmm.host.files import write_all
from vmm.x86.boot.archives import Readable, plain_end, zeros_end
from vmm.x86.boot.decompression import BLOCK, DamagedError, Decode, Source, codec_of
from vmm.x86.boot.image_file import ImageFile

logger = Logger(__name__)

_ALIGNMENT: Final = 4
_LZ4_FRAME: Final = b"\x04\x22\x4d\x18"


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
        source = Source(image, end, image.size)
        try:
            for block in decode(source):
                target.write(block)
        except DamagedError as error:
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


def _codec(image: Readable, offset: int) -> tuple[str, Decode] | None:
    head = image.read(offset, 8)
    if head.startswith(_LZ4_FRAME):
        raise ConfigurationError(
            f"{image.name}: is in lz4's frame format, which Linux does not unpack: use lz4 -l"
        )
    return codec_of(head)
