"""The pytest plugin as its users have it: in a folder of theirs, with nothing but the package."""

import importlib.util
import uuid
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.workflow.child_pytest import GENEROUS, run_pytest
from vmm.image import cache, default_kernel
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

KERNELS = """
from pathlib import Path

import pytest

from virtio import DescriptorChain, Device, feature, field, queue
from vmm.testing import GuestConfig

pytestmark = pytest.mark.guest(kernel=["default", Path({smp!r}), Path({other!r})])


@pytest.fixture
def guest_config():
    return GuestConfig(deadline=600)


class Narrow(Device):
    \"""A 9P device whose queue is too short for a request: Linux warns as it makes the first.\"""

    device_id = 9
    VIRTIO_9P_MOUNT_TAG = feature(0)
    tag_bytes = field("u16", 0, default=4)
    tag = field("u32", 2, default=int.from_bytes(b"tiny", "little"))

    def __init__(self):
        super().__init__(ring_features=0)

    @queue(size=1)
    def requestq(self, chain: DescriptorChain) -> int:
        return 0


def provoke(guest):
    guest.sh(
        "mount -t 9p -o trans=virtio tiny /mnt & pid=$!;"
        " until grep -q '^State:.D' /proc/$pid/status; do :; done; kill -9 $pid"
    )


def test_release(guest):
    assert guest.sh("uname -r").endswith("smp-pci") == (guest.config.kernel == Path({smp!r}))


@pytest.mark.guest(devices=[Narrow])
def test_warns(guest):
    provoke(guest)


@pytest.mark.guest(devices=[Narrow], kernel="default", allow_complaints="virtqueue_add_split")
def test_warns_as_allowed(guest):
    provoke(guest)


@pytest.mark.guest(devices=[Narrow], kernel="default")
def test_warns_as_wanted(guest):
    provoke(guest)
    [complaint] = guest.complaints()
    assert complaint.title.startswith("WARNING: CPU: 0 PID: ")


@pytest.mark.guest(devices=[Narrow], kernel="default", allow_complaints="something else")
def test_warns_and_fails(guest):
    provoke(guest)
    assert not "the test's own failure"


@pytest.mark.guest(kernel="default")
def test_taints(guest):
    guest.write_file("/proc/sys/kernel/tainted", "64")


@pytest.mark.guest(kernel="default", allow_complaints=True)
def test_taints_as_allowed(guest):
    guest.write_file("/proc/sys/kernel/tainted", "64")


@pytest.mark.guest(kernel="default")
def test_prints_what_a_kernel_would(guest):
    line = "WARNING: CPU: 0 PID: 1 at kernel/fork.c:12 f+0x1/0x2"
    guest.sh(f"echo '[    1.000000] {{line}}' >/dev/console; echo '<0>{{line}}' >/dev/kmsg")
    assert guest.kernel_log()[-1].endswith(line)


@pytest.mark.guest(kernel="default")
def test_ends(guest):
    guest.machine.agent.power_off()
    guest.wait()


@pytest.mark.guest(kernel="default")
def test_session(session_guest):
    session_guest.write_file("/proc/sys/kernel/tainted", "64")


@pytest.mark.guest(kernel=Path("/nonexistent/vmlinuz"))
def test_kernel_that_is_not_there(guest):
    pass
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


def test_each_kernel_has_its_test_and_what_it_complains_of_fails_that(tmp_path: Path) -> None:
    smp, other = default_kernel(cpus=2).vmlinux, tmp_path / "other"
    other.write_bytes(default_kernel().vmlinux.read_bytes() + b"\0")
    (tmp_path / "conftest.py").write_text(GENEROUS)
    (tmp_path / "test_kernels.py").write_text(KERNELS.format(smp=str(smp), other=str(other)))

    run = run_pytest(tmp_path)

    alike = {"test_release": "passed", "test_warns": "failure"}
    labels = ("default", "vmlinux", "other")
    assert run.outcomes == {
        **{f"{name}[{one}]": became for name, became in alike.items() for one in labels},
        "test_warns_as_allowed": "passed",
        "test_warns_as_wanted": "passed",
        "test_warns_and_fails": "failure",
        "test_taints": "failure",
        "test_taints_as_allowed": "passed",
        "test_prints_what_a_kernel_would": "passed",
        "test_ends": "passed",
        "test_session": "failure",
        "test_kernel_that_is_not_there": "error",
    }, run.output
    assert "test_kernels.py::test_warns    FAIL     FAIL     FAIL\n" in run.output
    warned = run.report_of(r"test_warns\[vmlinux\]")
    assert "GuestComplaintError: the guest's kernel complained: WARNING: CPU: 0 PID: " in warned
    assert "] ---[ end trace 0000000000000000 ]---" in warned
    failed = run.report_of("test_warns_and_fails")
    assert "the test's own failure" in failed
    assert "virtqueue_add_split" in failed.partition("the kernel printed:")[2]
    assert "64: U (requested by a program)" in run.report_of("test_session").replace("68", "64")
    missing = run.report_of("test_kernel_that_is_not_there")
    assert "kernel: /nonexistent/vmlinuz: No such file or directory" in missing
    log = ElementTree.parse(tmp_path / "report.xml").find(
        "*/testcase[@name='test_warns[default]']/properties/property[@name='guest-kernel-log']"
    )
    assert log is not None
    assert "cut here" in log.attrib["value"]


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
