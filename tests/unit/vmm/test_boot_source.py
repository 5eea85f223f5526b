"""What a configuration boots: its own files, or the default guest with what it was told to run."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.vmm.image.module_files import installed
from virtio.errors import ConfigurationError
from vmm import boot_source as guest
from vmm.config import MachineConfig


@pytest.fixture(autouse=True)
def default_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    initramfs = tmp_path / "initramfs.cpio"
    initramfs.write_bytes(b"default initramfs")
    kernel = SimpleNamespace(vmlinux=tmp_path / "vmlinux")
    monkeypatch.setattr("vmm.image.kernel.default_kernel", lambda **machine: kernel)
    monkeypatch.setattr("vmm.image.default_kernel", lambda **machine: kernel, raising=False)
    monkeypatch.setattr("vmm.image.default_initramfs", lambda: initramfs, raising=False)
    monkeypatch.setattr(guest, "default_cmdline", lambda console, pci: f"DEFAULTS-{console}")
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


@pytest.mark.parametrize(
    ("argument", "word"),
    [("plain", "plain"), ("two words", '"two words"'), ("", '""'), ("a=b c", '"a=b c"')],
)
def test_arguments_for_init_keep_their_borders(argument: str, word: str) -> None:
    config = MachineConfig(kernel=Path("/boot/mine"), init_arguments=("first", argument))

    assert guest.boot_source(config).cmdline.endswith(f" -- first {word}")


@pytest.mark.parametrize("argument", ['a"b', "line\nbreak", "--", "grün", "tab\t"])
def test_arguments_that_the_command_line_cannot_hold_are_refused(argument: str) -> None:
    config = MachineConfig(kernel=Path("/boot/mine"), init_arguments=(argument,))

    with pytest.raises(ConfigurationError, match=r"argument .* for init: .* cannot hold it"):
        guest.boot_source(config)


def test_more_arguments_than_linux_hands_on_are_refused() -> None:
    fits = MachineConfig(kernel=Path("/boot/mine"), init_arguments=("x",) * 32)
    too_many = MachineConfig(kernel=Path("/boot/mine"), init_arguments=("x",) * 33)

    assert guest.boot_source(fits).cmdline.count(" x") == 32
    with pytest.raises(ConfigurationError, match="33 arguments for init: Linux hands on 32"):
        guest.boot_source(too_many)


def test_an_initrd_of_5_gib_for_the_agent_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "initrd").open("wb") as file:
        file.truncate(5 << 30)
    config = MachineConfig(kernel=Path("k"), initrd=tmp_path / "initrd", agent="beside")

    with pytest.raises(ConfigurationError, match="has 5368709120 bytes, more than the 134217728"):
        guest.boot_source(config)


@pytest.mark.parametrize(("name", "what"), [("", "is a directory"), ("none", "cannot be opened")])
def test_an_initrd_that_is_none_is_named(tmp_path: Path, name: str, what: str) -> None:
    config = MachineConfig(kernel=Path("k"), initrd=tmp_path / name, agent="beside")

    with pytest.raises(ConfigurationError, match=f"initrd {tmp_path / name}: {what}"):
        guest.boot_source(config)


@pytest.fixture
def build_tree(tmp_path: Path) -> Path:
    """Return a build tree with the modules of a virtio console on PCI."""
    tree = tmp_path / "tree"
    modules = {"virtio_pci": (), "virtio_console": (), "virtio-rng": ()}
    installed(tree, modules, dep=False)
    (tree / "vmlinux").touch()
    return tree


def test_a_stock_kernel_gets_our_initramfs_behind_its_modules(build_tree: Path) -> None:
    source = guest.boot_source(MachineConfig(kernel=build_tree))

    assert source.kernel == build_tree / "vmlinux"
    assert isinstance(source.initrd, bytes)
    assert b"vmm-modules/virtio_pci.ko" in source.initrd
    assert source.initrd.endswith(b"default initramfs")
    assert source.cmdline == "DEFAULTS-ttyS0 quiet"
    assert source.acpi


def test_a_users_initrd_stays_whole_behind_the_modules(build_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "own").write_bytes(b"\x1f\x8bown")
    config = MachineConfig(kernel=build_tree, initrd=tmp_path / "own", init_arguments=("x",))
    source = guest.boot_source(config)

    assert isinstance(source.initrd, bytes)
    assert source.initrd.endswith(b"\x1f\x8bown")
    assert (len(source.initrd) - 5) % 4 == 0
    assert source.cmdline == "DEFAULTS-ttyS0 -- x"


def test_the_agents_driver_is_among_the_modules(build_tree: Path) -> None:
    source = guest.boot_source(MachineConfig(kernel=build_tree, agent="beside"))

    assert isinstance(source.initrd, bytes)
    assert b"vmm-modules/virtio_console.ko" in source.initrd
    assert b"vmm-agent" in source.initrd
