"""Debian's gdb at a Linux guest whose kernel has symbols."""

import re

import pytest

from tests.guest.gdb_client import gdb, needs_gdb
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.image import demo_disk
from vmm.image.kernel import KernelImage, cached_kernel
from vmm.machine import Machine

SECONDS = 240.0


@pytest.fixture(scope="module")
def kernel() -> KernelImage:
    found = cached_kernel(debug=True)
    if found is None:
        pytest.skip("the kernel with symbols is not built: vmm image build --debug")
    return found


@needs_gdb
def test_a_driver_is_broken_into_looked_at_and_let_go(kernel: KernelImage) -> None:
    disk = DiskConfig(str(demo_disk()), volatile=True)
    config = MachineConfig(debug_kernel=True, disks=(disk,), memory_bytes=64 << 20)
    with Machine(config) as machine:
        machine.load()
        server = machine.debug("127.0.0.1:0")
        machine.resume()
        told = gdb(
            [
                f"file {kernel.symbols}",
                f"target remote {server.address}",
                "hbreak virtblk_probe",
                "continue",
                "backtrace 3",
                "print vdev->id.device",
                "delete",
                "break device_add_disk",
                "continue",
                "print disk->disk_name",
                "finish",
                "monitor devices",
                "delete",
                "detach",
            ],
            seconds=SECONDS,
        )
        machine.console.wait_for("# ", timeout=SECONDS)

    for pattern in (
        r"Breakpoint 1, virtblk_probe \(vdev=0xffff888",
        r"#0 +virtblk_probe .*\n#1 .* in virtio_dev_probe .*\n#2 .* call_driver_probe ",
        r"\$1 = 2\n",
        r"Breakpoint 2, .*device_add_disk \(parent=",
        r'\$2 = "vda\\000',
        r"Value returned is \$3 = 0",
        r"block0: device type 2",
    ):
        assert re.search(pattern, told), f"{pattern} is not in:\n{told}"
