"""What a configuration boots: its own files, or the default guest with what it was told to run."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from vmm import boot_source as guest
from vmm.config import MachineConfig


@pytest.fixture(autouse=True)
def default_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    initramfs = tmp_path / "initramfs.cpio"
    initramfs.write_bytes(b"default initramfs")
    kernel = SimpleNamespace(vmlinux=tmp_path / "vmlinux")
    monkeypatch.setattr("vmm.image.kernel.default_kernel", lambda *, cpus: kernel)
    monkeypatch.setattr("vmm.image.default_kernel", lambda *, cpus: kernel, raising=False)
    monkeypatch.setattr("vmm.image.default_initramfs", lambda: initramfs, raising=False)
    monkeypatch.setattr(guest, "default_cmdline", lambda console: f"DEFAULTS-{console}")
    return tmp_path


def test_default_guest_is_kernel_and_initramfs_from_the_cache(default_images: Path) -> None:
    source = guest.boot_source(MachineConfig())

    assert source.kernel == default_images / "vmlinux"
    assert source.initrd == default_images / "initramfs.cpio"
    assert source.cmdline.startswith("DEFAULTS-ttyS0 quiet ")


def test_command_travels_in_the_initramfs_however_long_it_is() -> None:
    command = ("sh", "-c", "echo 'one two'; " * 100)
    source = guest.boot_source(MachineConfig(init_arguments=command))

    assert isinstance(source.initrd, bytes)
    assert source.initrd.startswith(b"default initramfs")
    assert b"etc/vmm/run" in source.initrd
    assert source.initrd.count(b"one two") == 100
    assert " -- " not in source.cmdline


def test_own_kernel_gets_no_initrd_and_its_words_on_the_command_line() -> None:
    config = MachineConfig(
        kernel=Path("/boot/mine"), cmdline="root=/dev/vda", init_arguments=("single", "x")
    )
    source = guest.boot_source(config)

    assert source.kernel == Path("/boot/mine")
    assert source.initrd is None
    assert source.cmdline == "DEFAULTS-ttyS0 root=/dev/vda -- single x"


def test_without_defaults_the_command_line_is_the_users() -> None:
    source = guest.boot_source(MachineConfig(default_cmdline=False, cmdline="console=hvc0"))

    assert source.cmdline == "console=hvc0"
