"""Kernels at hand: the running one, and what folders hold, with their modules."""

import struct
from pathlib import Path

import pytest

from tests.unit.vmm.image.module_files import installed, module_file
from virtio.errors import ConfigurationError
from vmm.image import kernels
from vmm.image.kernels import find_kernel


def bzimage(path: Path, release: str) -> Path:
    """Write the start of a bzImage, as far as it tells its release."""
    head = bytearray(0x400)
    head[0x1FE:0x200] = b"\x55\xaa"
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = struct.pack("<H", 0x100)
    text = f"{release} (builder@host) #1 SMP".encode()
    head[0x300 : 0x300 + len(text)] = text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head)
    return path


def running(root: Path) -> kernels.GuestKernel:
    return kernels._running(root, "6.1.0-9-test")


def test_the_running_kernel_is_the_one_in_boot_with_its_modules(tmp_path: Path) -> None:
    image = bzimage(tmp_path / "boot/vmlinuz-6.1.0-9-test", "6.1.0-9-test")
    (tmp_path / "boot/config-6.1.0-9-test").write_text("CONFIG_PCI=y\n")
    installed(tmp_path / "lib/modules/6.1.0-9-test", {"virtio": ()})
    found = running(tmp_path)

    assert (found.name, found.image, found.release) == ("kernel host", image, "6.1.0-9-test")
    assert "virtio" in found.modules
    assert found.config == tmp_path / "boot/config-6.1.0-9-test"


def test_the_running_kernel_may_lie_beside_its_modules(tmp_path: Path) -> None:
    modules = tmp_path / "usr/lib/modules/6.1.0-9-test"
    installed(modules, {})
    image = bzimage(modules / "vmlinuz", "6.1.0-9-test")

    assert running(tmp_path).image == image


def test_a_host_without_its_kernels_file_is_told_so_with_another_way(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        running(tmp_path)

    assert "kernel host: this host runs 6.1.0-9-test, and has neither" in str(caught.value)
    assert "--kernel debian" in str(caught.value)


def test_a_host_without_modules_is_told_where_they_would_be(tmp_path: Path) -> None:
    bzimage(tmp_path / "boot/vmlinuz-6.1.0-9-test", "6.1.0-9-test")

    with pytest.raises(ConfigurationError, match=r"modules are not at .*lib/modules/6.1.0-9-test"):
        running(tmp_path)


def test_an_unpacked_package_is_a_kernel_with_modules(tmp_path: Path) -> None:
    bzimage(tmp_path / "boot/vmlinuz-6.1.0-9-test", "6.1.0-9-test")
    installed(tmp_path / "usr/lib/modules/6.1.0-9-test", {"virtio": ()}, dep=False)

    assert "virtio" in find_kernel(tmp_path).modules


def test_the_image_tells_its_release_and_not_its_name(tmp_path: Path) -> None:
    bzimage(tmp_path / "boot/vmlinuz-6.1.0-9-test", "6.1.0-8-test")
    installed(tmp_path / "lib/modules/6.1.0-9-test", {})

    assert find_kernel(tmp_path).release == "6.1.0-8-test"


def test_a_folder_with_several_kernels_asks_for_one(tmp_path: Path) -> None:
    bzimage(tmp_path / "boot/vmlinuz-1", "1")
    bzimage(tmp_path / "boot/vmlinuz-2", "2")

    with pytest.raises(ConfigurationError, match="several kernels: name one of vmlinuz-1, vmlinuz"):
        find_kernel(tmp_path)


@pytest.mark.parametrize("image", ["vmlinux", "arch/x86/boot/bzImage"])
def test_a_build_tree_is_a_kernel_with_modules(tmp_path: Path, image: str) -> None:
    bzimage(tmp_path / image, "6.1.0-9-test")
    for folder in ("include/config", "drivers"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "include/config/kernel.release").write_text("6.1.0-9-test\n")
    (tmp_path / "drivers/virtio.ko").write_bytes(module_file("virtio"))
    (tmp_path / "modules.order").write_text("drivers/virtio.o\n")
    (tmp_path / ".config").write_text("CONFIG_PCI=y\n")
    found = find_kernel(tmp_path)

    assert (found.image, found.release) == (tmp_path / image, "6.1.0-9-test")
    assert found.modules.module("virtio").data == module_file("virtio")
    assert found.config == tmp_path / ".config"


def test_a_folder_without_a_kernel_is_told_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_kernel(tmp_path)

    assert "is a folder without a kernel: none of vmlinux, arch/x86/boot/bzImage" in str(
        caught.value
    )
