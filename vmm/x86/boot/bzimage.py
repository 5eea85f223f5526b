"""The setup header of a bzImage, the usual form of ``/boot/vmlinuz``.

Implements Linux x86 boot.rst "The Real-Mode Kernel Header".
"""

import os
import struct

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.x86.boot.image_file import ImageFile, open_image

HEADER_START = 0x1F1
# struct boot_params has its next field (edd_mbr_sig_buffer) at this offset.
HEADER_LIMIT = 0x290
BOOT_FLAG = 0xAA55
HDRS = b"HdrS"
SECTOR = 512
VERSION_2_12 = 0x020C
LOADED_HIGH = 1 << 0
XLF_KERNEL_64 = 1 << 0
_RELEASE_MAX = 256


class SetupHeader(NamedTuple):
    """The parts of a checked setup header that a loader needs.

    ``raw`` is the header itself, from file offset 0x1f1 on, as it goes into the zero page.
    ``payload_offset`` counts from the start of the file; ``cmdline_size`` is without the NUL,
    ``initrd_addr_max`` the last address that the initrd may occupy.
    """

    raw: bytes
    version: int
    payload_offset: int
    payload_length: int
    cmdline_size: int
    initrd_addr_max: int


def is_bzimage(image: ImageFile) -> bool:
    """Tell whether the file has a Linux/x86 setup header, of whatever version."""
    return image.read(0x202, 4) == HDRS and image.read(0x1FE, 2) == b"\x55\xaa"


def read_setup_header(image: ImageFile) -> SetupHeader:
    """Read and check the setup header of a bzImage.

    Raises :class:`ConfigurationError` when it is too old, not for 64 bits, or when the compressed
    kernel does not lie inside the file.
    """
    image.check_part("its setup header", 0, HEADER_LIMIT)
    head = image.read(0, HEADER_LIMIT)
    _check_version(image, head)
    setup_sectors = head[HEADER_START] or 4
    payload, length = struct.unpack_from("<II", head, 0x248)
    header = SetupHeader(
        raw=head[HEADER_START : 0x202 + head[0x201]],
        version=_u16(head, 0x206),
        payload_offset=(setup_sectors + 1) * SECTOR + payload,
        payload_length=length,
        cmdline_size=_u32(head, 0x238),
        initrd_addr_max=_u32(head, 0x22C),
    )
    image.check_part("its compressed kernel", header.payload_offset, length)
    return header


def image_release(path: str | os.PathLike[str]) -> str | None:
    """Return the release of the kernel in a bzImage, as ``uname -r`` says it; None for others."""
    with open_image(path, "kernel") as image:
        if not is_bzimage(image):
            return None
        offset = _u16(image.read(0, HEADER_LIMIT), 0x20E)  # kernel_version, from the setup code on
        text = image.read(SECTOR + offset, _RELEASE_MAX).partition(b"\0")[0]
        return text.partition(b" ")[0].decode(errors="replace") if offset else None


def _check_version(image: ImageFile, head: bytes) -> None:
    version = _u16(head, 0x206)
    if version < VERSION_2_12:
        raise ConfigurationError(
            f"{image.name}: has boot protocol {version >> 8}.{version & 0xFF:02}, "
            "2.12 or newer is needed (Linux 3.8)"
        )
    if not head[0x236] & XLF_KERNEL_64:
        raise ConfigurationError(f"{image.name}: is a 32-bit kernel, a 64-bit one is needed")
    if not head[0x211] & LOADED_HIGH:
        raise ConfigurationError(f"{image.name}: is a zImage (LOADED_HIGH clear), not a bzImage")


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")
