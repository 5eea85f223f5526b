"""Fuzz the loading of a bzImage: setup header, payload, and the ELF kernel inside.

Input: the setup header from file offset 0x1f1 to 0x290, then what stands behind it, with the magic
numbers put in. Setup sectors are few, so that the payload is near.
"""

from tests.fuzz.targets import kernel_file

HEADER, HEADER_END = 0x1F1, 0x290


def one_input(data: bytes) -> None:
    """Run one input."""
    image = bytearray(HEADER) + data
    image[0:2] = b"MZ"
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    with kernel_file.bounded():
        kernel = kernel_file.load(bytes(image), "auto")
    if kernel is not None:
        assert kernel.setup_header is not None
        assert len(kernel.setup_header) <= HEADER_END - HEADER
        assert kernel.cmdline_max < 0x10000
