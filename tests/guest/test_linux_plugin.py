"""The pytest plugin as its users have it: in a folder of theirs, with nothing but the package."""

import importlib.util
import uuid
from pathlib import Path

import pytest

from tests.workflow.child_pytest import run_pytest
from vmm.image import cache
from vmm.image.cache_room import SNAPSHOT_PREFIX

pytestmark = pytest.mark.timeout(1800)

# A command may take many seconds where the guest's code is emulated on a busy processor.
OUTCOMES = """
import pytest

from vmm.testing import GuestConfig


@pytest.fixture
def guest_config():
    return GuestConfig(deadline=600)


def test_passes(guest):
    assert guest.run(["uname", "-s"]).stdout == "Linux\\n"


def test_fails(guest):
    guest.run(["sh", "-c", "echo line $((40 + 2)) >/dev/console"])
    assert guest.run(["false"]).returncode == 0


def test_panics(guest):
    guest.write_file("/proc/sys/vm/panic_on_oom", "1")
    guest.write_file("/proc/sys/vm/min_free_kbytes", "1000000")
    guest.run(["ls", "-R", "/"])


def test_ends_otherwise(guest):
    guest.machine.agent.power_off()


def test_ends_as_wanted(guest):
    guest.machine.agent.power_off()
    assert guest.wait().message == "the guest powered off"


@pytest.mark.guest(deadline=30)
def test_hangs(guest):
    guest.run(["sleep", "1000"])


@pytest.mark.guest(colour="blue")
def test_asks_for_what_there_is_not(guest):
    pass


class TestTogether:
    pytestmark = pytest.mark.guest(shared=True)

    def test_one_writes(self, guest):
        guest.write_file("/tmp/shared", "by one")

    def test_other_reads(self, guest):
        assert guest.read_file("/tmp/shared") == b"by one"
"""

AT_ONCE = """
import dataclasses

import pytest


@pytest.fixture
def guest_config(guest_config):
    return dataclasses.replace(guest_config, deadline=600, cmdline="vmm.test={mark}")


@pytest.mark.parametrize("number", range(4))
def test_one_of_many(guest, number):
    assert "{mark}" in guest.read_file("/proc/cmdline").decode()
"""


def test_outcomes_are_told_as_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "test_outcomes.py").write_text(OUTCOMES)

    run = run_pytest(tmp_path)

    assert run.outcomes == {
        "test_passes": "passed",
        "test_fails": "failure",
        "test_panics": "failure",
        "test_ends_otherwise": "error",
        "test_ends_as_wanted": "passed",
        "test_hangs": "failure",
        "test_asks_for_what_there_is_not": "error",
        "test_one_writes": "passed",
        "test_other_reads": "passed",
    }
    failed = run.report_of("test_fails")
    for told in (
        "guest: running",
        ">/dev/console -> 0 after",
        "false -> 1 after",
        "last events:",
        "last console lines:",
        "line 42",
        "vCPU 0",
        "console: ",
    ):
        assert told in failed, failed
    assert "Kernel panic - not syncing: Out of memory" in run.report_of("test_panics")
    assert "GuestEndedError: the guest powered off" in run.report_of("test_ends_otherwise")
    assert "the test's deadline of 30 s passed" in run.report_of("test_hangs")
    refused = run.report_of("test_asks_for_what_there_is_not")
    assert "marker guest: colour: must be one of memory, cpus, cmdline" in refused


@pytest.mark.skipif(importlib.util.find_spec("xdist") is None, reason="needs pytest-xdist")
def test_workers_that_start_at_once_share_one_snapshot(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    (tmp_path / "test_at_once.py").write_text(AT_ONCE.format(mark=mark))
    before = {entry.name for entry in cache.entries()}

    run = run_pytest(tmp_path, "-n", "2", plugins=("xdist",))

    assert set(run.outcomes.values()) == {"passed"}, run.output
    assert len(run.outcomes) == 4
    new = {entry.name for entry in cache.entries()} - before
    try:
        assert len([name for name in new if name.startswith(SNAPSHOT_PREFIX)]) == 1
    finally:
        for name in new:
            cache.remove(name)
