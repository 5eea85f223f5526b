"""Fuzz the loading of kernels with Multiboot headers. Input: a byte for the protocol, the file.

What a header with addresses loads must stand in RAM as they say, read here by the specification.
"""

import struct

from tests.fuzz.targets import kernel_file
from vmm.x86.limits import BootProtocol

PROTOCOLS: tuple[BootProtocol, ...] = ("auto", "multiboot", "multiboot2", "elf64")
MAGICS = {
    "multiboot": (b"\x02\xb0\xad\x1b", 4, 8192),
    "multiboot2": (b"\xd6\x50\x52\xe8", 8, 32768),
}


def one_input(data: bytes) -> None:
    """Run one input."""
    if not data:
        return
    image = data[1:]
    kernel = kernel_file.load(image, PROTOCOLS[data[0] % 4])
    if kernel is None or kernel.protocol not in MAGICS:
        return
    magic, alignment, window = MAGICS[kernel.protocol]
    places = [
        at for at in range(0, min(len(image), window), alignment) if image.startswith(magic, at)
    ]
    assert places, "there is no header"
    if kernel.protocol == "multiboot":
        at = next(at for at in places if checksum(image, at) == 0)
        assert_loaded(image, at)


def checksum(image: bytes, at: int) -> int:
    """Return the sum of the words of a header."""
    words: tuple[int, ...] = struct.unpack("<III", image[at : at + 12].ljust(12, b"\1"))
    return sum(words) & 0xFFFFFFFF


def assert_loaded(image: bytes, at: int) -> None:
    """Assert that RAM holds what the addresses of a header of version 1 say, if it has any."""
    (flags,) = struct.unpack_from("<I", image, at + 4)
    assert flags & 0xFFFF in range(4), "what no machine has was asked for"
    if not flags >> 16 & 1:
        return
    header, load, load_end, bss_end, _ = struct.unpack_from("<5I", image, at + 12)
    offset = at - (header - load)
    assert 0 <= offset <= at, "it begins before the file"
    expected = image[offset:] if not load_end else image[offset : offset + load_end - load]
    assert load_end in (0, load + len(expected)), "more bytes than the file has"
    expected = expected.ljust((bss_end or load + len(expected)) - load, b"\0")
    assert kernel_file.CONTENT.startswith(expected, load), "it is not as told"
