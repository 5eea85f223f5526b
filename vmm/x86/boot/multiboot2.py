"""The Multiboot2 header of a kernel: a magic number and tags.

Implements the Multiboot2 Specification 2.0, "OS image format".
"""

import struct
from collections.abc import Iterator
from typing import Final

from virtio.errors import ConfigurationError
from vmm.x86.boot.image_file import ImageFile
from vmm.x86.boot.multiboot import LoadAddresses, MultibootHeader

MAGIC: Final = 0xE85250D6
ARCHITECTURE_I386: Final = 0

_SEARCHED_BYTES: Final = 32768
_ALIGNMENT: Final = 8
_LONGEST_BYTES: Final = 4096

# magic, architecture, header_length, checksum
_HEADER: Final = struct.Struct("<IIII")
# type, flags, size
_TAG: Final = struct.Struct("<HHI")
_ADDRESSES: Final = struct.Struct("<IIII")
_OPTIONAL: Final = 1

_END, _INFORMATION, _ADDRESS, _ENTRY, _CONSOLE, _MODULE_ALIGNMENT = 0, 1, 2, 3, 4, 6
_EFI_ENTRIES: Final = (8, 9)  # for a machine with EFI, which this is not
_RELOCATABLE: Final = 10  # it may be loaded elsewhere, too
_NO_DEMANDS: Final = (_CONSOLE, _MODULE_ALIGNMENT, *_EFI_ENTRIES, _RELOCATABLE)
_FROM_THE_START: Final = 0xFFFF_FFFF

OFFERED: Final = frozenset({1, 2, 3, 4, 6, 14, 15})
"""The kinds of information that a kernel gets: command line, loader, modules, memory, RSDP."""


def find_multiboot2(image: ImageFile, *, needed: bool) -> MultibootHeader | None:
    """Return the header of a kernel, None where it has none; as :func:`find_multiboot`."""
    data = image.read(0, _SEARCHED_BYTES)
    magic, at, wrong = MAGIC.to_bytes(4, "little"), -1, -1
    while (at := data.find(magic, at + 1)) >= 0:
        words = data[at : at + _HEADER.size]
        if at % _ALIGNMENT or len(words) < _HEADER.size:
            continue
        if sum(_HEADER.unpack(words)) & 0xFFFF_FFFF == 0:
            return _read(image, at)
        wrong = at
    if needed and wrong >= 0:
        raise ConfigurationError(
            f"{image.name}: its Multiboot2 header at byte {wrong} has a wrong checksum: magic,"
            " architecture, length and checksum must add up to 0"
        )
    return None


def _read(image: ImageFile, at: int) -> MultibootHeader:
    _, architecture, length, _ = _HEADER.unpack(image.read(at, _HEADER.size))
    if architecture != ARCHITECTURE_I386:
        raise ConfigurationError(
            f"{image.name}: its Multiboot2 header is for architecture {architecture}, must be 0"
        )
    if not _HEADER.size <= length <= _LONGEST_BYTES:
        raise ConfigurationError(
            f"{image.name}: its Multiboot2 header has {length} bytes, must be {_HEADER.size} to"
            f" {_LONGEST_BYTES}"
        )
    image.check_part("its Multiboot2 header", at, length)
    addresses, entry = None, None
    for kind, flags, body in _tags(image, image.read(at, length)):
        if kind == _ADDRESS and len(body) >= _ADDRESSES.size:
            addresses = _addresses(at, *_ADDRESSES.unpack_from(body))
        elif kind == _ENTRY and len(body) >= 4:
            entry = int.from_bytes(body[:4], "little")
        elif not flags & _OPTIONAL:
            _check_demand(image, kind, body)
    return MultibootHeader("multiboot2", at, addresses, entry)


def _tags(image: ImageFile, header: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Walk the tags: type, flags and what is behind them, up to the end tag."""
    position = _HEADER.size
    while position + _TAG.size <= len(header):
        kind, flags, size = _TAG.unpack_from(header, position)
        if kind == _END:
            return
        if size < _TAG.size or position + size > len(header):
            raise ConfigurationError(
                f"{image.name}: tag {kind} of its Multiboot2 header has {size} bytes, which does"
                " not fit the header"
            )
        yield kind, flags, header[position + _TAG.size : position + size]
        position += -(-size // _ALIGNMENT) * _ALIGNMENT
    raise ConfigurationError(f"{image.name}: its Multiboot2 header has no end tag")


def _addresses(at: int, header: int, load: int, load_end: int, bss_end: int) -> LoadAddresses:
    return LoadAddresses(
        header, header - at if load == _FROM_THE_START else load, load_end, bss_end
    )


def _check_demand(image: ImageFile, kind: int, body: bytes) -> None:
    """Raise for what a kernel cannot do without, and a machine here has not."""
    if kind == _INFORMATION:
        words = struct.unpack(f"<{len(body) // 4}I", body[: len(body) // 4 * 4])
        if missing := sorted(set(words) - OFFERED):
            raise ConfigurationError(
                f"{image.name}: its Multiboot2 header asks for information of type {missing[0]},"
                " which there is none of here; make that tag optional"
            )
    elif kind not in _NO_DEMANDS:
        raise ConfigurationError(
            f"{image.name}: its Multiboot2 header needs what tag {kind} asks for, which there is"
            " none of here; make it optional"
        )
