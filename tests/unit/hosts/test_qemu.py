"""The hardware host's QEMU: its console is followed until it ends, or its time does."""

from pathlib import Path

import pytest

from tests.hosts import qemu
from tests.hosts.kernel import HostKernel
from tests.hosts.qemu import HardwareHost


def host(path: Path) -> HardwareHost:
    kernel = HostKernel(path / "vmlinuz", ())
    return HardwareHost(kernel, path / "initramfs", path / "system", path / "errand")


def stand_in(path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = path / "qemu"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(qemu, "PROGRAM", str(program))


def test_comma_in_the_name_of_a_disk_is_no_option() -> None:
    assert "if=none,id=system,file=/a,,b/system,format=raw,snapshot=on" in (
        host(Path("/a,b")).command()
    )


def test_console_is_shown_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "echo one; echo two")
    shown = bytearray()

    assert host(tmp_path).run(60, shown.extend)
    assert shown == b"one\ntwo\n"


def test_host_is_stopped_when_its_time_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "exec sleep 600")

    assert not host(tmp_path).run(0.01, lambda piece: None)
