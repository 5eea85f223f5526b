"""The options of a command become the configuration of a machine."""

import argparse
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.cli.machine_options import add_machine_arguments, machine_config
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.image.progress import silent


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
        *("--memory", "1G", "--cpus", "2", "--console", "virtio", "--agent", "beside"),
        *("--io-threads", "shared", "--poll", "7", "--no-rng", "--boot", "pvh"),
        *("--on-panic", "wait"),
        *("--cmdline", "debug", "--no-default-cmdline", "--disk", "a.img,ro", "--disk", "b.img"),
    )

    assert config == MachineConfig(
        kernel=Path("vmlinux"),
        memory_bytes=1073741824,
        cpus=2,
        console="virtio",
        agent="beside",
        io_threads="shared",
        on_panic="wait",
        poll_us=7,
        rng=False,
        boot="pvh",
        cmdline="debug",
        default_cmdline=False,
        disks=(DiskConfig("a.img", read_only=True), DiskConfig("b.img")),
    )


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e8"])
def test_timeout_that_is_none_is_refused(seconds: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--timeout .*: must be above 0"):
        config_of(f"--timeout={seconds}")


@pytest.mark.parametrize(
    "arguments",
    [("--boot", "uefi"), ("--console", "vga"), ("--io-threads", "none"), ("--on-panic", "no")],
)
def test_other_words_than_the_configurations_are_refused(arguments: tuple[str, str]) -> None:
    with pytest.raises(argparse.ArgumentError, match="invalid choice"):
        config_of(*arguments)
