"""Loads whatever kernels this machine has; skipped where there is none."""

import glob
import mmap
import os
import struct

import pytest

from virtio.memory import FlatMemory
from vmm.x86.boot.kernel import load_kernel

KERNELS = sorted(
    {*glob.glob("/boot/vmlinu[xz]-*"), *os.environ.get("PYVMM_TEST_KERNELS", "").split()}
)


@pytest.mark.skipif(not KERNELS, reason="no kernel in /boot, none in PYVMM_TEST_KERNELS")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("protocol", ["auto", "linux64"])
def test_kernel_of_this_machine_is_loaded(kernel: str, protocol: str) -> None:
    mapping = mmap.mmap(-1, 256 << 20)
    memory = FlatMemory([(0, memoryview(mapping))])

    loaded = load_kernel(kernel, memory, protocol=protocol)  # type: ignore[arg-type]

    version = mapping.find(b"Linux version ", loaded.start, loaded.end)
    assert loaded.start <= loaded.entry < loaded.end
    assert version > 0
    assert struct.unpack_from("<Q", mapping, loaded.entry)[0] != 0
    memory.release()
    mapping.close()
