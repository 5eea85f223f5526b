"""Kernels as they are at hand boot with their modules: Debian's, and one in a folder.

Debian's are for hosts with hardware virtualization, and must be in the cache (``vmm kernel fetch
debian debian:6.12``): a test downloads nothing.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmm import Machine, MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.image import build_initramfs, default_kernel, find_kernel
from vmm.image.debian_kernel import known_kernel
from vmm.x86 import is_emulated_host

READY_SECONDS = 200
DISK_BYTES = 1 << 20
PARAMETER = "virtio-blk.queue_depth=32"


def stock(name: str) -> str:
    """Return the name of a kernel of Debian's that this host can boot now."""
    if is_emulated_host():
        pytest.skip("a stock kernel takes many minutes on a host that emulates guest kernels")
    if known_kernel(name) is None:
        pytest.skip(f"vmm kernel fetch {name} was not done")
    return name


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stock") / "disk.img"
    path.write_bytes(os.urandom(DISK_BYTES))
    return path


@pytest.fixture(scope="module", params=["debian", "debian:6.12"])
def machine(request: pytest.FixtureRequest, disk: Path) -> Iterator[Machine]:
    config = MachineConfig(
        kernel=stock(request.param),
        agent="init",
        console="virtio",
        cpus=2,
        disks=(DiskConfig(str(disk)),),
        cmdline=PARAMETER,
    )
    with Machine(config) as machine:
        machine.boot()
        machine.agent.wait_ready(READY_SECONDS)
        yield machine


def told(machine: Machine, *words: str) -> str:
    return str(machine.agent.run(words, timeout=60).stdout).strip()


def test_the_kernel_is_the_one_that_the_name_means(machine: Machine) -> None:
    assert isinstance(machine.config.kernel, str)
    assert told(machine, "uname", "-r") == find_kernel(machine.config.kernel).release
    assert told(machine, "nproc") == "2"


def test_each_device_is_on_pci_and_has_its_driver(machine: Machine) -> None:
    script = "for one in /sys/bus/virtio/devices/*/driver; do readlink $one; done"
    drivers = [line.rpartition("/")[2] for line in told(machine, "sh", "-c", script).splitlines()]

    assert drivers == ["virtio_blk", "virtio_rng", "virtio_console"]
    assert "/pci0000:00/" in told(machine, "readlink", "-f", "/sys/block/vda")


def test_the_disk_is_read_and_written_unchanged(machine: Machine, disk: Path) -> None:
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    assert told(machine, "sha256sum", "/dev/vda").split()[0] == before

    told(machine, "sh", "-c", "head -c 65536 /dev/hwrng | tee /tmp/random > /dev/vda; sync")
    written = hashlib.sha256(disk.read_bytes()[:65536]).hexdigest()
    assert told(machine, "sha256sum", "/tmp/random").split()[0] == written


def test_modules_have_the_parameters_of_the_command_line(machine: Machine) -> None:
    assert told(machine, "cat", "/sys/module/virtio_blk/parameters/queue_depth") == "32"


def test_no_module_was_refused(machine: Machine) -> None:
    assert "cannot be loaded" not in "\n".join(machine.console.last_lines(1000))


def test_an_initrd_of_the_users_goes_on_behind_the_modules(tmp_path: Path) -> None:
    own = tmp_path / "own.cpio"
    own.write_bytes(build_initramfs({"/own": "mine\n"}))
    config = MachineConfig(kernel=stock("debian"), initrd=own, agent="beside", transport="mmio")
    with Machine(config) as machine:
        machine.boot()
        machine.agent.wait_ready(READY_SECONDS)

        assert told(machine, "cat", "/own") == "mine"
        assert "virtio_mmio" in told(machine, "cat", "/proc/modules")


@pytest.mark.timeout(300)
def test_a_kernel_in_a_folder_needs_no_more_than_the_folders_name() -> None:
    ours = default_kernel()
    config = MachineConfig(kernel=ours.vmlinux.parent, transport="mmio", agent="init")
    with Machine(config) as machine:
        machine.boot()
        machine.agent.wait_ready(READY_SECONDS)

        assert told(machine, "uname", "-r") == ours.release
