"""Debian's gdb at a Linux guest whose kernel has symbols."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.guest.gdb_client import gdb, needs_gdb
from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.image import demo_disk
from vmm.image.kernel import KernelImage, cached_kernel
from vmm.machine import Machine

SECONDS = 240.0
PROMPT = "# "


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
        r'\$2 = "vda',
        r"Value returned is \$3 = 0",
        r"block0: device type 2",
    ):
        assert re.search(pattern, told), f"{pattern} is not in:\n{told}"


def test_kernel_objects_are_read_in_the_running_guest_and_in_its_dump(
    kernel: KernelImage, tmp_path: Path
) -> None:
    drgn = pytest.importorskip("drgn", reason="drgn is not installed: the extra drgn")
    from drgn.helpers.linux.list import list_for_each_entry
    from drgn.helpers.linux.pid import for_each_task

    disk = DiskConfig(str(demo_disk()), volatile=True)
    config = MachineConfig(debug_kernel=True, disks=(disk,), memory_bytes=64 << 20)
    with Machine(config) as machine:
        machine.load()
        with pytest.raises(ConfigurationError, match="has left no VMCOREINFO in memory"):
            machine.drgn()
        machine.resume()
        machine.console.wait_for(PROMPT, timeout=SECONDS)
        with machine.held():
            program = machine.drgn()
            names = {task.comm.string_() for task in for_each_task(program)}
            bus = program["virtio_bus"].p.klist_devices
            devices = [
                drgn.container_of(one, "struct virtio_device", "dev") for one in _devices(bus)
            ]
            block = next(one for one in devices if one.id.device == 2)
            [queue] = list_for_each_entry("struct virtqueue", block.vqs.address_of_(), "list")
            name, free, size = (
                queue.name.string_(),
                queue.num_free.value_(),
                queue.num_max.value_(),
            )
            machine.dump(tmp_path / "core")
        with pytest.raises(ConfigurationError, match="has no symbols of this guest's kernel"):
            machine.drgn(sys.executable)
    dumped = drgn.Program()
    dumped.set_core_dump(str(tmp_path / "core"))
    dumped.load_debug_info([str(kernel.symbols)])
    names_in_dump = {task.comm.string_() for task in for_each_task(dumped)}
    told = gdb([f"file {kernel.symbols}", f"core-file {tmp_path}/core", "backtrace 2"])

    assert {b"kthreadd", b"init"} <= names
    assert names_in_dump == names
    assert (name, free) == (b"req.0", size)
    assert re.search(r"#0 .* in \w+ \(", told), told


def _devices(klist: Any) -> list[Any]:
    """Return the ``struct device`` of each device on a bus of Linux."""
    from drgn import container_of
    from drgn.helpers.linux.list import list_for_each_entry

    nodes = list_for_each_entry("struct klist_node", klist.k_list.address_of_(), "n_node")
    return [container_of(one, "struct device_private", "knode_bus").device for one in nodes]
