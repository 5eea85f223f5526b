"""The options of a command become the configuration of a machine."""

import argparse
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.cli import machine_options
from vmm.cli.machine_options import add_machine_arguments, machine_config
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.image.progress import silent
from vmm.net import NetConfig
from vmm.topology import CpuTopology


def config_of(*arguments: str) -> MachineConfig:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_machine_arguments(parser)
    options = parser.parse_args(["--kernel", "vmlinux", *arguments])
    options.init_arguments = []
    return machine_config(options, silent)


def test_without_options_the_machine_is_that_of_the_configurations_defaults() -> None:
    assert config_of() == MachineConfig(kernel=Path("vmlinux"))


def test_options_become_the_configuration() -> None:
    config = config_of(
        *("--memory", "1G", "--cpus", "4,threads=2", "--console", "virtio"),
        *("--agent", "beside"),
        *("--io-threads", "shared", "--poll", "7", "--no-rng", "--boot", "pvh"),
        *("--transport", "pci", "--rng-transport", "mmio", "--console-transport", "pci"),
        *("--on-panic", "wait"),
        *("--cmdline", "debug", "--no-default-cmdline"),
        *("--disk", "a.img,ro", "--disk", "b.img,transport=mmio"),
    )

    assert config == MachineConfig(
        kernel=Path("vmlinux"),
        memory_bytes=1073741824,
        cpus=4,
        cpu_topology=CpuTopology(cores=2, threads=2),
        console="virtio",
        agent="beside",
        io_threads="shared",
        transport="pci",
        rng_transport="mmio",
        console_transport="pci",
        on_panic="wait",
        poll_us=7,
        rng=False,
        boot="pvh",
        cmdline="debug",
        default_cmdline=False,
        disks=(DiskConfig("a.img", read_only=True), DiskConfig("b.img", transport="mmio")),
    )


# Disks, rings and ports


def test_without_a_disk_the_default_guest_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_options, "demo_disk", lambda _: pytest.fail("it was made"))
    parser = argparse.ArgumentParser()
    add_machine_arguments(parser)
    options = parser.parse_args(["--no-disk"])
    options.init_arguments = []

    assert machine_config(options, silent).disks == ()


def test_a_disk_and_none_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="--no-disk: with --disk there is one"):
        config_of("--no-disk", "--disk", "a.img")


@pytest.mark.parametrize(
    ("text", "cid"), [("v.sock", 3), ("v.sock,cid=9", 9), ("a,b", 3), ("a,cid=2,cid=4", 4)]
)
def test_sockets_have_an_address(text: str, cid: int) -> None:
    assert config_of("--vsock", text).vsock == cid
    assert config_of().vsock is None


def test_networks_are_cards_in_order() -> None:
    config = config_of("--net", "user,hostfwd=tcp:8080:80", "--net", "tap=t0,queues=2")

    assert config.nets == (
        NetConfig("user", hostfwd=("tcp:8080:80",)),
        NetConfig("tap", "t0", queues=2),
    )
    assert config_of().nets == ()


@pytest.mark.parametrize("text", ["", ",cid=4", "v,cid=", "v,cid=2", "v,cid=x", "v,cid=-4"])
def test_address_that_no_guest_may_have_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--vsock '{text}': needs PATH or PATH,cid=N"):
        config_of("--vsock", text)


@pytest.mark.parametrize(
    ("names", "mask"),
    [
        ("none", 0),
        ("indirect-desc", 1 << 28),
        ("event-idx,packed", 1 << 29 | 1 << 34),
        ("in-order,notification-data,ring-reset", 1 << 35 | 1 << 38 | 1 << 40),
    ],
)
def test_ring_features_are_chosen_by_name(names: str, mask: int) -> None:
    assert config_of("--ring-features", names).ring_features == mask


@pytest.mark.parametrize("names", ["fast", "packed,", "PACKED", "none,packed"])
def test_ring_features_that_there_are_not_are_refused(names: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--ring-features '.*': must be among indirect"):
        config_of("--ring-features", names)


def test_ports_are_named_with_or_without_a_file() -> None:
    assert config_of("--port", "log=out.txt", "--port", "org.example.1").ports == (
        "log",
        "org.example.1",
    )


@pytest.mark.parametrize("text", ["", "=file", "name="])
def test_port_without_name_or_file_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--port '.*': needs NAME or NAME=FILE"):
        config_of(f"--port={text}")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e8"])
def test_timeout_that_is_none_is_refused(seconds: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--timeout .*: must be above 0"):
        config_of(f"--timeout={seconds}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--boot", "uefi"),
        ("--console", "vga"),
        ("--io-threads", "none"),
        ("--transport", "isa"),
        ("--on-panic", "no"),
    ],
)
def test_other_words_than_the_configurations_are_refused(arguments: tuple[str, str]) -> None:
    with pytest.raises(argparse.ArgumentError, match="invalid choice"):
        config_of(*arguments)
