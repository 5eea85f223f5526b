"""The guest gets the modules that its machine's devices need, in the order of their loading."""

import re
from pathlib import Path

import pytest

from tests.unit.vmm.image.module_files import RELEASE, installed
from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.drivers import drivers
from vmm.image.kernels import GuestKernel
from vmm.image.module_archive import modules_for
from vmm.image.module_tree import installed_modules
from vmm.share.config import ShareConfig

STOCK = {
    "virtio_ring": (),
    "virtio": ("virtio_ring",),
    "virtio_pci": ("virtio", "virtio_ring"),
    "virtio_mmio": ("virtio", "virtio_ring"),
    "virtio_blk": ("virtio", "virtio_ring"),
    "virtio_console": ("virtio", "virtio_ring"),
    "virtio-rng": ("virtio",),
}


def kernel(folder: Path, modules: dict[str, tuple[str, ...]], *builtin: str) -> GuestKernel:
    tree = installed_modules(installed(folder / "modules", modules, builtin))
    return GuestKernel("kernel test", folder / "vmlinuz", RELEASE, tree, None)


def order(archive: bytes) -> list[str]:
    found = re.search(rb"vmm-modules/order\0+((?:[\w.]+\n)+)", archive)
    return [] if found is None else found[1].decode().split()


def test_modules_of_transport_disks_and_entropy_are_loaded_in_that_order(tmp_path: Path) -> None:
    config = MachineConfig(transport="pci", disks=(DiskConfig("disk"),))
    archive = modules_for(kernel(tmp_path, STOCK), drivers(config))

    assert order(archive) == [
        *("virtio_ring.ko", "virtio.ko", "virtio_pci.ko", "virtio_blk.ko", "virtio_rng.ko")
    ]
    assert b"vmm-modules/virtio_blk.ko\0" in archive


def test_the_transport_decides_which_bus_is_loaded(tmp_path: Path) -> None:
    archive = modules_for(kernel(tmp_path, STOCK), drivers(MachineConfig(transport="mmio")))

    assert "virtio_mmio.ko" in order(archive)
    assert "virtio_pci.ko" not in order(archive)


@pytest.mark.parametrize(
    "config",
    [
        MachineConfig(console="virtio"),
        MachineConfig(agent="beside"),
        MachineConfig(ports=("log",)),
    ],
)
def test_a_console_an_agent_or_a_port_brings_the_consoles_driver(
    tmp_path: Path, config: MachineConfig
) -> None:
    assert "virtio_console.ko" in order(modules_for(kernel(tmp_path, STOCK), drivers(config)))


def test_shared_directories_bring_their_file_system(tmp_path: Path) -> None:
    stock = {**STOCK, "fuse": (), "virtiofs": ("fuse", "virtio"), "overlay": ()}
    config = MachineConfig(transport="pci", shares=(ShareConfig("/", "/"),))
    found = order(modules_for(kernel(tmp_path, stock), drivers(config)))

    assert found.index("fuse.ko") < found.index("virtiofs.ko")
    assert "overlay.ko" in found


def test_a_machine_into_which_disks_may_be_plugged_has_their_driver(tmp_path: Path) -> None:
    archive = modules_for(kernel(tmp_path, STOCK), drivers(MachineConfig(spare_slots=1)))

    assert "virtio_blk.ko" in order(archive)


def test_a_kernel_that_has_all_built_in_gets_no_archive(tmp_path: Path) -> None:
    builtin = [name.replace("-", "_") for name in STOCK]
    monolithic = kernel(tmp_path, {}, *builtin)

    assert modules_for(monolithic, drivers(MachineConfig(transport="pci"))) == b""


def test_a_driver_that_is_missing_is_named_with_what_needs_it_and_its_option(
    tmp_path: Path,
) -> None:
    without = {name: needs for name, needs in STOCK.items() if name != "virtio_blk"}
    config = MachineConfig(transport="pci", disks=(DiskConfig("disk"),))

    with pytest.raises(ConfigurationError) as caught:
        modules_for(kernel(tmp_path, without), drivers(config))

    assert str(caught.value).startswith(
        "kernel test: has no driver virtio_blk for the disks: neither a module in"
    )
    assert "CONFIG_VIRTIO_BLK" in str(caught.value)


def test_a_kernel_without_the_transports_driver_is_refused(tmp_path: Path) -> None:
    without = {name: needs for name, needs in STOCK.items() if name != "virtio_mmio"}
    config = MachineConfig(transport="mmio", agent="init")

    with pytest.raises(ConfigurationError, match="virtio_mmio for transport mmio"):
        modules_for(kernel(tmp_path, without), drivers(config))


def test_an_entropy_device_without_a_driver_stops_nobody(tmp_path: Path) -> None:
    without = {name: needs for name, needs in STOCK.items() if name != "virtio-rng"}

    assert order(modules_for(kernel(tmp_path, without), drivers(MachineConfig(transport="pci"))))


def test_modules_of_another_version_are_refused_with_both_versions(tmp_path: Path) -> None:
    other = kernel(tmp_path, STOCK)._replace(release="6.1.0-10-test")

    with pytest.raises(ConfigurationError) as caught:
        modules_for(other, drivers(MachineConfig(transport="pci")))

    assert "kernel test: is 6.1.0-10-test, and the module virtio_ring" in str(caught.value)
    assert "is for 6.1.0-9-test" in str(caught.value)
