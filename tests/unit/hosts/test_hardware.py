"""Where the tests for hardware KVM run, and what is told when they cannot."""

import time
from pathlib import Path

import pytest

from tests.hosts import hardware
from tests.hosts.errand import Errand
from tests.hosts.run import HostEnded
from virtio.errors import ConfigurationError

NO_FAULT = None


@pytest.mark.parametrize(
    ("fault", "emulated", "here"),
    [(NO_FAULT, False, True), (NO_FAULT, True, False), ("no /dev/kvm", False, False)],
)
def test_tests_run_here_where_kvm_is_hardware_kvm(
    monkeypatch: pytest.MonkeyPatch, fault: str | None, emulated: bool, here: bool
) -> None:
    monkeypatch.setattr(hardware, "kvm_fault", lambda: fault)
    monkeypatch.setattr(hardware, "is_emulated_host", lambda: emulated)

    assert hardware.runs_here() is here


def test_run_for_which_no_time_is_left_is_skipped_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert hardware.run_there(short=True, until=time.time() + 60) == 0
    assert capsys.readouterr().err == "test-hardware: skipped: no time was left for it\n"


@pytest.mark.parametrize(("hours", "status"), [(1, 0), (None, 125)])
def test_host_that_cannot_be_had_is_skipped_only_in_a_run_with_an_end(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    hours: int | None,
    status: int,
) -> None:
    def refuse(*arguments: object, **options: object) -> int:
        raise ConfigurationError("the hardware host needs qemu-system-x86")

    monkeypatch.setattr(hardware, "cached_kernel", lambda: "one")
    monkeypatch.setattr(hardware, "own_kernels", refuse)
    monkeypatch.setattr(hardware, "ensure_qemu", refuse)
    monkeypatch.setattr(hardware, "run", refuse)
    until = None if hours is None else time.time() + 3600 * hours

    assert hardware.run_there(short=True, until=until) == status
    assert "the hardware host needs qemu-system-x86\n" in capsys.readouterr().err


@pytest.mark.parametrize(("deaths", "status"), [(0, 3), (1, 3), (2, 125)])
def test_host_that_dies_is_followed_by_one_other(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    deaths: int,
    status: int,
) -> None:
    hosts: list[Errand] = []

    def run(errand: Errand, *arguments: object, **options: object) -> int:
        hosts.append(errand)
        if len(hosts) <= deaths:
            raise HostEnded("its kernel panicked")
        return 3

    monkeypatch.setattr(hardware, "own_kernels", lambda *arguments, **options: None)
    monkeypatch.setattr(hardware, "run", run)

    assert hardware.run_there(short=True, until=None) == status
    assert len(hosts) == min(deaths + 1, 2)
    assert ("Another one is started" in capsys.readouterr().err) is (deaths > 0)


def test_what_came_back_is_told_line_by_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hardware, "RESULTS", tmp_path)
    monkeypatch.setattr(hardware, "OUTSIDE", tmp_path / "outside.xml")
    passed = '<testsuites><testcase classname="a" name="b"/></testsuites>'
    (tmp_path / "junit.xml").write_text(passed.replace("/></t", "><skipped/></testcase></t"))
    (tmp_path / "outside.xml").write_text(passed)
    told: list[str] = []

    hardware.tell(told.append)

    assert told == [
        f"1 tests on hardware KVM, of them 1 skipped: {tmp_path}/junit.xml",
        "a::b: passed outside, skipped inside",
        "1 of them ended otherwise than on this host",
    ]
