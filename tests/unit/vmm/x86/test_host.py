"""On another machine type everything says so in one line."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.cli import main
from vmm.config import MachineConfig
from vmm.machine import Machine
from vmm.x86 import HostIdentity, check_host, open_kvm

REFUSAL = "this host is aarch64; pyvmm runs guests on x86-64 only so far"


def boot_a_machine() -> None:
    with Machine(MachineConfig(memory_bytes=4 << 20)):
        pass


@pytest.fixture
def aarch64(monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.uname()
    other = os.uname_result((*found[:4], "aarch64"))
    monkeypatch.setattr(os, "uname", lambda: other)


@pytest.mark.usefixtures("aarch64")
@pytest.mark.parametrize("entry", [check_host, open_kvm, boot_a_machine, HostIdentity.of_this_host])
def test_another_machine_type_is_refused_by_name(entry: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match=REFUSAL):
        entry()


@pytest.mark.usefixtures("aarch64")
@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "--restore", "nowhere"],
        ["demo"],
        ["snapshot", "nowhere"],
        ["image", "build"],
    ],
)
def test_commands_refuse_another_machine_type_in_one_line(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing is there to be found

    assert main(arguments) == 2
    assert capfd.readouterr() == ("", f"vmm: {REFUSAL}\n")


@pytest.mark.usefixtures("aarch64")
def test_doctor_finds_another_machine_type(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 125
    assert f"kvm:    {REFUSAL}\n" in capfd.readouterr().out
