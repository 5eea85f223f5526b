"""Fuzz the unpacking of a compressed kernel. Input: a byte that chooses the form, the stream."""

import os

from tests.fuzz.targets import assert_one_line, kernel_file
from virtio.errors import ConfigurationError
from vmm.x86.boot import payload
from vmm.x86.boot.image_file import ImageFile

MAGICS = (b"\x1f\x8b", b"\xfd7zXZ\0", b"\x5d\0\0", b"BZh", b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd")


def one_input(data: bytes) -> None:
    """Run one input."""
    if not data:
        return
    magic = (*MAGICS, b"")[data[0] % 7]
    image = b"before" + magic + data[1:]
    kernel_file.store(image)
    file = ImageFile(kernel_file.FD, "kernel fuzzed")
    length = len(image) - 6
    try:
        with kernel_file.bounded(), payload.unpacked(file, 6, length) as unpacked:
            assert unpacked.size == int.from_bytes(image[-4:], "little")
            assert os.fstat(unpacked.fd).st_size <= kernel_file.UNPACKED_MAX
    except ConfigurationError as error:
        assert_one_line(error)
