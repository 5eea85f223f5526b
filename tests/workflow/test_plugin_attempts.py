"""Each attempt at a test is judged by itself, and has the guest that it asks for."""

from pathlib import Path

import pytest

from tests.workflow.child_pytest import GENEROUS, run_pytest
from vmm.x86 import kvm_fault

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(kvm_fault() is not None, reason=str(kvm_fault())),
]

DYING = """
import pytest

attempts = {}


def count(name):
    attempts[name] = attempts.get(name, 0) + 1
    return attempts[name]


def test_dies_each_time(guest):
    guest.machine.agent.power_off()


def test_fails_each_time_and_dies(guest):
    guest.machine.agent.power_off()
    assert guest.run(["true"]).returncode == 0


def test_dies_once(guest):
    if count("own") == 1:
        guest.machine.agent.power_off()


@pytest.mark.guest(shared=True)
def test_shared_guest_dies_once(guest):
    if count("shared") == 1:
        guest.machine.agent.power_off()
    assert guest.run(["true"]).returncode == 0


@pytest.fixture(scope="session")
def kept_file(session_guest):
    session_guest.write_file("/tmp/kept", str(count("made")))
    return "/tmp/kept"


def test_guest_of_the_session_is_there(session_guest, kept_file):
    assert session_guest.read_file(kept_file) == b"1"


def test_guest_of_the_session_dies_once(session_guest, kept_file):
    if count("session") == 1:
        session_guest.machine.agent.power_off()
    else:
        assert session_guest.read_file(kept_file) == b"2"


def test_guest_of_the_session_is_there_again(session_guest, kept_file):
    assert session_guest.read_file(kept_file) == b"2"
"""


def test_a_guest_that_dies_in_each_attempt_fails_the_test_and_in_one_does_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "conftest.py").write_text(GENEROUS)
    (tmp_path / "test_dying.py").write_text(DYING)

    run = run_pytest(tmp_path, "--reruns=1", plugins=("rerunfailures",))

    assert run.outcomes == {
        "test_dies_each_time": "error",
        "test_fails_each_time_and_dies": "failure",
        "test_dies_once": "passed",
        "test_shared_guest_dies_once": "passed",
        "test_guest_of_the_session_is_there": "passed",
        "test_guest_of_the_session_dies_once": "passed",
        "test_guest_of_the_session_is_there_again": "passed",
    }, run.output
    assert "GuestEndedError: the guest powered off" in run.report_of("test_dies_each_time")
