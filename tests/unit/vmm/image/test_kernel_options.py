"""A kernel that lacks a driver is refused before its boot, where its configuration is at hand."""

import gzip
import os
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from virtio.testing import flat_memory
from vmm.boot_source import boot_source
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.image.kernel_options import config_beside, parse_options
from vmm.x86.boot.embedded_config import embedded_config
from vmm.x86.boot.kernel import LoadedKernel

ALL = "CONFIG_X86_64=y\nCONFIG_PCI=y\n"
ALL += "CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_MMIO=y\nCONFIG_VIRTIO_BLK=y\n"


def kernel_with(folder: Path, config: str) -> Path:
    """Return a kernel that is as old as its configuration beside it."""
    image = folder / "vmlinuz-6.1-test"
    for path, text in ((image, ""), (folder / "config-6.1-test", config)):
        path.write_text(text)
        os.utime(path, (1000, 1000))
    return image


def with_disk(kernel: Path, **changes: object) -> MachineConfig:
    values = {"transport": "pci", "disks": (DiskConfig("disk"),), "rng": False, **changes}
    return MachineConfig(kernel=kernel, **values)  # type: ignore[arg-type]


def refusal(config: MachineConfig) -> str:
    with pytest.raises(ConfigurationError) as caught:
        boot_source(config)
    return str(caught.value)


def test_a_kernel_that_has_all_drivers_is_booted(tmp_path: Path) -> None:
    source = boot_source(with_disk(kernel_with(tmp_path, ALL)))

    assert source.check_config is None


@pytest.mark.parametrize(
    ("missing", "transport", "message"),
    [
        ("CONFIG_VIRTIO_BLK", "pci", "built without CONFIG_VIRTIO_BLK, for the disks:"),
        ("CONFIG_VIRTIO_PCI", "pci", "without CONFIG_VIRTIO_PCI, for transport pci:"),
        ("CONFIG_PCI", "pci", "built without CONFIG_PCI, for transport pci:"),
        ("CONFIG_VIRTIO_MMIO", "mmio", "without CONFIG_VIRTIO_MMIO, for transport mmio:"),
    ],
)
def test_the_option_that_is_off_is_named_with_what_needs_it(
    tmp_path: Path, missing: str, transport: str, message: str
) -> None:
    kernel = kernel_with(tmp_path, ALL.replace(f"{missing}=y", f"# {missing} is not set"))
    told = refusal(with_disk(kernel, transport=transport))

    assert told.startswith(f"kernel {kernel}: was ")
    assert message in told


def test_without_acpi_the_windows_must_come_from_the_command_line(tmp_path: Path) -> None:
    kernel = kernel_with(tmp_path, ALL)

    assert "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES" in refusal(
        with_disk(kernel, transport="mmio", acpi=False)
    )


def test_a_module_that_nothing_loads_is_told(tmp_path: Path) -> None:
    kernel = kernel_with(tmp_path, ALL.replace("VIRTIO_BLK=y", "VIRTIO_BLK=m"))

    assert "has virtio_blk for the disks as a module (CONFIG_VIRTIO_BLK=m)" in refusal(
        with_disk(kernel)
    )
    assert boot_source(with_disk(kernel, initrd=b"with modules")).initrd == b"with modules"


def test_the_console_hvc0_needs_its_driver(tmp_path: Path) -> None:
    kernel = kernel_with(tmp_path, ALL)
    config = MachineConfig(kernel=kernel, transport="pci", console="virtio")

    assert "CONFIG_VIRTIO_CONSOLE, for the console hvc0:" in refusal(config)


def test_what_the_machine_can_do_without_stops_nobody(tmp_path: Path) -> None:
    boot_source(MachineConfig(kernel=kernel_with(tmp_path, ""), rng=True))


def test_a_file_that_is_no_configuration_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").touch()
    (tmp_path / "config").write_text("CONFIG_OF_ANOTHER_KIND=y\n")

    assert boot_source(with_disk(tmp_path / "vmlinux")).check_config is not None


def test_a_configuration_that_was_changed_since_only_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = kernel_with(tmp_path, "CONFIG_X86_64=y\n")
    os.utime(tmp_path / "config-6.1-test", (2000, 2000))
    boot_source(with_disk(kernel))

    assert "which is newer than the kernel" in caplog.text


@pytest.mark.parametrize(
    ("image", "config"),
    [
        ("vmlinuz-6.1", "config-6.1"),
        ("tree/vmlinux", "tree/.config"),
        ("tree/arch/x86/boot/bzImage", "tree/.config"),
        ("kernel/vmlinux", "kernel/config"),
    ],
)
def test_a_configuration_is_found_where_builds_and_packages_put_it(
    tmp_path: Path, image: str, config: str
) -> None:
    for path in (tmp_path / image, tmp_path / config):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    assert config_beside(tmp_path / image) == tmp_path / config


def test_without_one_beside_it_the_kernels_own_configuration_is_asked(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").touch()
    check = boot_source(with_disk(tmp_path / "vmlinux")).check_config

    assert check is not None
    check(ALL)
    with pytest.raises(ConfigurationError, match="CONFIG_VIRTIO_BLK"):
        check("CONFIG_PCI=y\nCONFIG_VIRTIO_PCI=y\n")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            b"xx" + b"IKCFG_ST" + gzip.compress(b"CONFIG_PCI=y\n", mtime=0) + b"IKCFG_ED",
            "CONFIG_PCI=y\n",
        ),
        (b"IKCFG_ST without data", None),
        (b"IKCFG_ST\x1f\x8b\x08damaged" + bytes(99), None),
        (b"", None),
    ],
)
def test_a_loaded_kernel_tells_the_configuration_that_it_holds(
    content: bytes, text: str | None
) -> None:
    memory = flat_memory((0, 1 << 16))
    memory.view(0x1000, len(content))[:] = content
    kernel = LoadedKernel(0x1000, "pvh", 0x1000, 0x3000)

    assert embedded_config(memory, kernel) == text


def test_options_are_read_whatever_else_there_is() -> None:
    text = '#\nCONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_D="y"\nCONFIG_E=5\nbad\n'

    assert parse_options(text) == {"CONFIG_A": "y", "CONFIG_B": "m"}
