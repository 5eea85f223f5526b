"""The Multiboot header of a kernel that is none of Linux, by which it says how to be loaded.

Implements the Multiboot Specification 0.6.96, "OS image format". Version 2 has tags of its own, in
:mod:`vmm.x86.boot.multiboot2`.
"""

import struct
from typing import Final, Literal

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.x86.boot.elf import Elf, Segment, check_segment
from vmm.x86.boot.image_file import ImageFile

MultibootProtocol = Literal["multiboot", "multiboot2"]

MAGIC: Final = 0x1BADB002
PAGE_ALIGN: Final = 1 << 0
MEMORY_INFO: Final = 1 << 1
VIDEO_MODE: Final = 1 << 2
HAS_ADDRESSES: Final = 1 << 16
_NEEDED: Final = 0xFFFF  # flags of what the loader must know, or refuse

_SEARCHED_BYTES: Final = 8192
_ALIGNMENT: Final = 4
_LOOK_BEYOND_BYTES: Final = 1 << 20

# magic, flags, checksum
_HEADER: Final = struct.Struct("<III")
# header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr
_ADDRESSES: Final = struct.Struct("<IIIII")


class LoadAddresses(NamedTuple):
    """Where the header says that the file goes, in place of ELF's program headers.

    ``load_end`` 0 means all of the file, ``bss_end`` 0 that nothing is cleared behind it.
    """

    header: int
    load: int
    load_end: int
    bss_end: int


class MultibootHeader(NamedTuple):
    """A checked header, at byte ``offset`` of its file; ``entry`` None leaves that to ELF."""

    protocol: MultibootProtocol
    offset: int
    addresses: LoadAddresses | None = None
    entry: int | None = None


def find_multiboot(image: ImageFile, *, needed: bool) -> MultibootHeader | None:
    """Return the header of a kernel, None where it has none.

    Raises :class:`ConfigurationError` for one that asks for what no machine here has. Where a
    header is ``needed``, it is also raised for one that is damaged or in the wrong place.
    """
    data = image.read(0, _SEARCHED_BYTES)
    found = [at for at in _places(data) if _is_valid(data, at)]
    if found:
        return _read(image, found[0])
    if needed:
        _complain(image, data)
    return None


def multiboot_segments(image: ImageFile, header: MultibootHeader) -> Elf:
    """Return what a header with addresses has loaded, in the form of an ELF file.

    Raises :class:`ConfigurationError` for addresses that fit neither the file nor the machine.
    """
    addresses, entry = header.addresses, header.entry
    assert addresses is not None
    if entry is None:
        raise ConfigurationError(f"{image.name}: its Multiboot header has addresses and no entry")
    offset = header.offset - (addresses.header - addresses.load)
    if addresses.load > addresses.header or offset < 0:
        raise ConfigurationError(
            f"{image.name}: its Multiboot header at byte {header.offset} says that it goes to"
            f" {addresses.header:#x} and the file to {addresses.load:#x}, which does not fit"
        )
    load_end = addresses.load_end or addresses.load + image.size - offset
    end = addresses.bss_end or load_end
    if not addresses.load < load_end <= end:
        raise ConfigurationError(
            f"{image.name}: its Multiboot header has it loaded from {addresses.load:#x} to"
            f" {load_end:#x} and cleared to {end:#x}, must be in ascending order"
        )
    segment = Segment(
        offset, load_end - addresses.load, addresses.load, end - addresses.load, addresses.load
    )
    check_segment(image, segment)
    return Elf(entry, None, (segment,))


def _places(data: bytes) -> list[int]:
    """Return where the magic number stands, at the alignment of a header."""
    magic, places, at = MAGIC.to_bytes(4, "little"), [], -1
    while (at := data.find(magic, at + 1)) >= 0:
        if at % _ALIGNMENT == 0:
            places.append(at)
    return places


def _is_valid(data: bytes, at: int) -> bool:
    words = data[at : at + _HEADER.size]
    return len(words) == _HEADER.size and sum(_HEADER.unpack(words)) & 0xFFFF_FFFF == 0


def _read(image: ImageFile, at: int) -> MultibootHeader:
    _, flags, _ = _HEADER.unpack(image.read(at, _HEADER.size))
    if flags & VIDEO_MODE:
        raise ConfigurationError(
            f"{image.name}: its Multiboot header asks for a video mode (flag 2), and the machine"
            " has no display: build it without that flag"
        )
    if unknown := flags & _NEEDED & ~(PAGE_ALIGN | MEMORY_INFO):
        raise ConfigurationError(
            f"{image.name}: its Multiboot header needs flags {unknown:#x}, which mean nothing here"
        )
    if not flags & HAS_ADDRESSES:
        return MultibootHeader("multiboot", at)
    start = at + _HEADER.size
    image.check_part("its Multiboot header", start, _ADDRESSES.size)
    *addresses, entry = _ADDRESSES.unpack(image.read(start, _ADDRESSES.size))
    return MultibootHeader("multiboot", at, LoadAddresses(*addresses), entry)


def _complain(image: ImageFile, data: bytes) -> None:
    """Raise for a header that is there, but not as it must be."""
    if places := _places(data):
        at = places[0]
        words = image.read(at, _HEADER.size)
        image.check_part("its Multiboot header", at, _HEADER.size)
        magic, flags, checksum = _HEADER.unpack(words)
        raise ConfigurationError(
            f"{image.name}: its Multiboot header at byte {at} has checksum {checksum:#x},"
            f" must be {-(magic + flags) & 0xFFFF_FFFF:#x}"
        )
    far = image.read(0, _LOOK_BEYOND_BYTES)
    if found := [at for at in _places(far) if _is_valid(far, at)]:
        raise ConfigurationError(
            f"{image.name}: its Multiboot header is at byte {found[0]}, must be in the first"
            f" {_SEARCHED_BYTES}: put its section first in the linker script"
        )
