"""A kernel is a file, a folder or a name; a name that can mean none is refused at once."""

from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.kernel_choice import debian_name, is_stock, kernel_choice


@pytest.mark.parametrize("text", ["host", "debian", "debian:6.12", "debian:6.12-generic"])
def test_names_stay_names(text: str) -> None:
    assert kernel_choice(text) == text
    assert MachineConfig(kernel=text).kernel == text


@pytest.mark.parametrize("text", ["vmlinux", "./host", "/boot/debian:6", "hosts", "debian6"])
def test_everything_else_is_a_path(text: str) -> None:
    assert kernel_choice(text) == Path(text)


@pytest.mark.parametrize(
    ("name", "version", "flavour"),
    [
        ("debian", "", "cloud"),
        ("debian:generic", "", "generic"),
        ("debian:6.12", "6.12", "cloud"),
        ("debian:6.1.0-57", "6.1.0-57", "cloud"),
        ("debian:6.1.0-57-rt", "6.1.0-57", "rt"),
        ("debian:6.12.9+deb12-generic", "6.12.9+deb12", "generic"),
    ],
)
def test_a_name_says_version_and_flavour(name: str, version: str, flavour: str) -> None:
    assert debian_name(name) == (version, flavour)


@pytest.mark.parametrize(
    "name",
    ["", "vmlinux", "debian:", "debian:x", "debian:6.12-arm64", "debian:-generic", "debian:../x"],
)
def test_a_name_of_no_kernel_is_refused_with_what_names_there_are(name: str) -> None:
    with pytest.raises(ConfigurationError, match="must be host, debian, debian:VERSION"):
        MachineConfig(kernel=name)


def test_our_init_serves_where_nobody_brings_another(tmp_path: Path) -> None:
    file = tmp_path / "vmlinux"

    assert MachineConfig().has_our_init
    assert MachineConfig(kernel="debian").has_our_init
    assert MachineConfig(kernel=file, initrd=file, agent="init").has_our_init
    assert not MachineConfig(kernel="debian", initrd=file).has_our_init
    assert not MachineConfig(kernel=file).has_our_init
    assert not MachineConfig(kernel="debian", initrd=file, agent="beside").has_our_init


def test_named_kernels_and_folders_have_their_devices_on_pci(tmp_path: Path) -> None:
    assert is_stock(tmp_path)
    assert MachineConfig(kernel=tmp_path).settled().transport == "pci"
    assert MachineConfig(kernel="debian").settled().transport == "pci"
    assert MachineConfig(kernel=tmp_path / "vmlinux").settled().transport == "mmio"
    assert MachineConfig().settled().transport == "mmio"
    assert MachineConfig(kernel="debian", transport="mmio").settled().transport == "mmio"
