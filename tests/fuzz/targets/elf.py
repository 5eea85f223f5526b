"""Fuzz the loading of an ELF kernel. Input: a byte that chooses the protocol, then the file.

What is accepted must stand in RAM as its program headers say, read here by the System V ABI.
"""

import struct

from tests.fuzz.targets import kernel_file
from vmm.x86.limits import BootProtocol

PROTOCOLS: tuple[BootProtocol, ...] = ("auto", "pvh", "linux64")


def one_input(data: bytes) -> None:
    """Run one input."""
    if not data:
        return
    image = b"\x7fELF" + data[1:]
    kernel = kernel_file.load(image, PROTOCOLS[data[0] % 3])
    if kernel is not None and not kernel.protocol.startswith("multiboot"):
        assert_loaded(image)


def assert_loaded(image: bytes) -> None:
    """Assert that RAM holds every segment, and zeros where a segment has no bytes in the file."""
    (table,) = struct.unpack_from("<Q", image, 32)
    (count,) = struct.unpack_from("<H", image, 56)
    for header in range(table, table + 56 * count, 56):
        kind, _, offset, _, address, size, end, _ = struct.unpack_from("<IIQQQQQQ", image, header)
        if kind == 1 and end:
            expected = image[offset : offset + size].ljust(end, b"\0")
            assert len(expected) == end, "more bytes in the file than in memory"
            assert kernel_file.CONTENT.startswith(expected, address), "a segment is not as told"
