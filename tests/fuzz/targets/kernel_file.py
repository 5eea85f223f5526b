"""Kernel files for the fuzzers: one file in memory, loaded into a small guest's RAM.

The file is reached by its name in ``/proc``, so that what runs is what runs for a user.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.fuzz.targets import assert_one_line
from virtio.errors import ConfigurationError
from virtio.memory import FlatMemory
from vmm.x86.boot import payload
from vmm.x86.boot.kernel import LoadedKernel, load_kernel
from vmm.x86.limits import BootProtocol

UNPACKED_MAX = 1 << 20
KERNEL_AREA = 0x100000
RAM_BYTES = KERNEL_AREA + 0x20000
ZEROS = bytes(KERNEL_AREA)
DIRTY = b"\xee" * (RAM_BYTES - KERNEL_AREA)

FD = os.memfd_create("fuzzed-kernel", os.MFD_CLOEXEC)
PATH = f"/proc/self/fd/{FD}"
CONTENT = bytearray(RAM_BYTES)
RAM = FlatMemory([(0, CONTENT)])


def store(image: bytes) -> None:
    """Make ``image`` the content of the file."""
    os.ftruncate(FD, len(image))
    os.pwrite(FD, image, 0)


def load(image: bytes, protocol: BootProtocol) -> LoadedKernel | None:
    """Load a kernel; None if it is refused. What is written, and what is told, must be right."""
    store(image)
    CONTENT[KERNEL_AREA:] = DIRTY
    try:
        kernel = load_kernel(PATH, RAM, protocol=protocol)
    except ConfigurationError as error:
        assert_one_line(error)
        return None
    assert KERNEL_AREA <= kernel.start <= kernel.entry < kernel.end <= RAM_BYTES
    assert CONTENT.startswith(ZEROS), "the boot area was written"
    assert CONTENT.startswith(DIRTY[: kernel.start - KERNEL_AREA], KERNEL_AREA), "written below"
    assert CONTENT.endswith(DIRTY[: RAM_BYTES - kernel.end]), "written above"
    return kernel


@contextmanager
def bounded() -> Iterator[None]:
    """Let kernels unpack to 1 MiB at most: for much more, a few bytes may rightly take long."""
    usual, payload.UNPACKED_MAX = payload.UNPACKED_MAX, UNPACKED_MAX
    try:
        yield
    finally:
        payload.UNPACKED_MAX = usual
