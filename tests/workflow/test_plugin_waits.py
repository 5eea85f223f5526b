"""Whatever ends a wait abandons what was waited for, and the guest serves on."""

from pathlib import Path

import pytest

from tests.workflow.child_pytest import GENEROUS, run_pytest
from vmm.x86 import kvm_fault

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(kvm_fault() is not None, reason=str(kvm_fault())),
]

LEFT = """
import os
import signal
import threading

import pytest

pytestmark = pytest.mark.guest(shared=True)


class Other(BaseException):
    pass


def raise_other(*_):
    raise Other


def commands(guest):
    return [line for line in guest.sh("ps -o args").splitlines() if line.startswith("sleep")]


@pytest.mark.timeout(3, method="signal", func_only=True)
def test_out_of_time(guest):
    guest.run(["sleep", "1000"])


def test_nothing_of_it_is_left(guest):
    assert commands(guest) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_interrupted(guest, number):
    before = signal.signal(signal.SIGUSR1, raise_other)
    interruption = threading.Timer(2, lambda: os.kill(os.getpid(), number))
    interruption.start()
    try:
        with pytest.raises((KeyboardInterrupt, Other)):
            guest.run(["sleep", "1000"])
    finally:
        interruption.join()
        signal.signal(signal.SIGUSR1, before)
    assert commands(guest) == []


def test_interrupted_file(guest):
    before = signal.signal(signal.SIGUSR1, raise_other)
    interruption = threading.Timer(2, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    interruption.start()
    try:
        with pytest.raises(Other):
            guest.write_file("/tmp/big", bytes(256 << 20))
    finally:
        interruption.join()
        signal.signal(signal.SIGUSR1, before)
    assert guest.sh("echo served") == "served"
"""

SIDE_BY_SIDE = """
import asyncio


async def test_commands_run_side_by_side(guest):
    words = ["one", "two", "three"]
    results = await asyncio.gather(
        *(asyncio.to_thread(guest.run, ["echo", word]) for word in words)
    )
    assert [result.stdout for result in results] == ["one\\n", "two\\n", "three\\n"]


async def test_guest_dies_under_a_task(guest):
    task = asyncio.create_task(asyncio.to_thread(guest.run, ["sleep", "1000"]))
    await asyncio.to_thread(guest.machine.agent.power_off)
    await task
"""


def test_an_exception_in_a_wait_ends_the_command_in_the_guest(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(GENEROUS)
    (tmp_path / "test_left.py").write_text(LEFT)

    run = run_pytest(tmp_path, plugins=("timeout",))

    assert run.outcomes.pop("test_out_of_time") == "failure"
    assert set(run.outcomes.values()) == {"passed"}, run.output
    assert len(run.outcomes) == 4
    report = run.report_of("test_out_of_time")
    assert "Timeout" in report
    assert "last commands:\n  sleep 1000\n" in report


def test_coroutines_use_a_guest_by_threads(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(GENEROUS)
    (tmp_path / "test_side.py").write_text(SIDE_BY_SIDE)
    options = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")

    run = run_pytest(tmp_path, *options, plugins=("asyncio",))

    assert run.outcomes == {
        "test_commands_run_side_by_side": "passed",
        "test_guest_dies_under_a_task": "failure",
    }, run.output
    report = run.report_of("test_guest_dies_under_a_task")
    assert "GuestEndedError: the guest powered off while sleep 1000 ran" in report
