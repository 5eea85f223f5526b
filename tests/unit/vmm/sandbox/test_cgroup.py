"""The cgroup of a jail: its place, its limits, and that nothing stays of it."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from vmm.config import MachineConfig
from vmm.sandbox import cgroup
from vmm.sandbox.cgroup import Cgroup, finding, own_cgroup, remove_abandoned
from vmm.sandbox.limits import Limits, parse_limits
from vmm.sandbox.mode import SandboxUnavailable

ALL = "cpuset cpu io memory hugetlb pids"
FILES = ("memory.max", "memory.oom.group", "pids.max", "cpu.max", "io.weight", "cgroup.procs")

needs_cgroup = pytest.mark.skipif(finding().startswith("no limits"), reason=finding())
needs_limits = pytest.mark.skipif(
    not finding().startswith("limits of memory, pids, cpu"), reason=f"cgroups: {finding()}"
)

IN_CGROUP = """
import os, sys
from vmm.sandbox.cgroup import Cgroup
with Cgroup.make({}) as made:
    if not (child := os.fork()):
        made.join()
        print(os.getpid(), made.path, open("/proc/self/cgroup").read().split()[-1], flush=True)
        sys.stdin.read(1)
        os._exit(0)
    os.waitpid(child, 0)
"""

# Does some work under limits, as one process of a cgroup, and tells how that ended and what the
# kernel then says.
LIMITED = """
import os, sys, threading, time
from vmm.config import MachineConfig
from vmm.sandbox.cgroup import Cgroup
from vmm.sandbox.limits import parse_limits
def work():
{work}
with Cgroup.make(parse_limits(sys.argv[2:], MachineConfig(), 0)) as made:
    if not (child := os.fork()):
        made.join()
        work()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print((made.path / sys.argv[1]).read_text())
"""


def limits(*words: str) -> Limits:
    found = parse_limits(words, MachineConfig(), 0)
    assert found is not None
    return found


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like that of a delegated cgroup, in whose child this process is."""
    own = tmp_path / "slice" / "scope"
    own.mkdir(parents=True)
    for place, switched_on in ((own.parent, ALL), (own, "")):
        (place / "cgroup.procs").touch()
        (place / "cgroup.controllers").write_text(ALL)
        (place / "cgroup.subtree_control").write_text(switched_on)

    def make(path: Path) -> None:
        path.mkdir()
        for name in FILES:
            (path / name).touch()

    monkeypatch.setattr(cgroup, "_make", make)
    return own


def test_place_is_beside_the_own_one_when_that_has_no_controllers_for_children(tree: Path) -> None:
    made = Cgroup.make(limits(), tree)

    assert made.path == tree.parent / f"vmm-jail-{os.getpid()}"
    assert (tree / "cgroup.subtree_control").read_text() == ""


def test_place_is_below_the_own_one_when_its_children_have_controllers(tree: Path) -> None:
    (tree / "cgroup.subtree_control").write_text(ALL)

    assert Cgroup.make(limits(), tree).path == tree / f"vmm-jail-{os.getpid()}"


def test_controllers_are_switched_on_where_no_children_have_them(tree: Path) -> None:
    (tree.parent / "cgroup.subtree_control").write_text("")

    assert Cgroup.make(limits(), tree).path == tree / f"vmm-jail-{os.getpid()}"
    assert set((tree / "cgroup.subtree_control").read_text().split()) == {
        *("+cpu", "+io", "+memory", "+pids"),
    }
    assert (tree.parent / "cgroup.subtree_control").read_text() == ""


def test_cgroup_that_a_killed_keeper_left_goes_when_another_is_made(tree: Path) -> None:
    (tree.parent / "vmm-jail-99999999").mkdir()

    Cgroup.make(limits(), tree)

    assert not (tree.parent / "vmm-jail-99999999").exists()


def test_limits_are_written(tree: Path) -> None:
    made = Cgroup.make(limits("cpu=2", "pids=70"), tree)

    assert made.path is not None
    assert {name: (made.path / name).read_text() for name in FILES[:5]} == {
        "memory.max": str(256 << 20),
        "memory.oom.group": "1",
        "pids.max": "70",
        "cpu.max": "200000 100000",
        "io.weight": "default 50",
    }
    assert made.lacks == ""


def test_usual_limit_without_its_controller_is_told_of(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "_make", Path.mkdir)

    assert Cgroup.make(limits("pids=max"), tree).lacks.startswith(
        f"jail: no limit of memory, cpu: {tree.parent} has no such controllers; run it where"
    )


def test_limit_that_was_asked_for_is_had_or_refused(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "_make", Path.mkdir)

    with pytest.raises(SandboxUnavailable, match=r"jail: no limit of cpu: .* no such controllers"):
        Cgroup.make(limits("cpu=1"), tree)
    assert sorted(one.name for one in tree.parent.iterdir() if one.is_dir()) == ["scope"]


def test_user_who_may_make_no_cgroup_is_told(tmp_path: Path) -> None:
    made = Cgroup.make(limits(), tmp_path)

    assert made.path is None
    assert made.lacks.startswith("jail: no limit of memory, pids, cpu: no cgroup v2 in which")
    with pytest.raises(SandboxUnavailable, match="no limit of io: no cgroup v2"):
        Cgroup.make(limits("io=7"), tmp_path)


def test_what_a_killed_keeper_left_is_removed_and_what_is_used_stays(tmp_path: Path) -> None:
    names = ["vmm-jail-99999999", f"vmm-jail-{os.getpid()}", "vmm-jail-x", "other"]
    for name in names:
        (tmp_path / name).mkdir()

    remove_abandoned(tmp_path)

    assert {one.name for one in tmp_path.iterdir()} == set(names[1:])


@needs_cgroup
def test_process_is_in_the_cgroup_which_goes_away_with_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", IN_CGROUP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as keeper:
        assert keeper.stdout is not None
        _, path, inside = keeper.stdout.readline().split()
        was_there = os.path.isdir(path)
        keeper.communicate("x")

    assert was_there
    assert Path(path).name == Path(inside).name
    assert not os.path.exists(path)


@needs_cgroup
def test_cgroup_goes_away_when_its_process_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", IN_CGROUP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as keeper:
        assert keeper.stdout is not None
        number, path, _ = keeper.stdout.readline().split()
        os.kill(int(number), signal.SIGKILL)
        keeper.wait()

    assert not os.path.exists(path)


def test_own_cgroup_is_a_folder_of_processes_or_none() -> None:
    own = own_cgroup()

    assert own is None or (own / "cgroup.procs").exists()


def limited(work: str, file: str, *words: str) -> tuple[int, str]:
    """Return the status of a process with some work, and a file of its cgroup."""
    program = LIMITED.format(work=textwrap.indent(textwrap.dedent(work), "    "))
    done = subprocess.run(
        [sys.executable, "-c", program, file, *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    status, _, content = done.stdout.partition("\n")
    return int(status), content.strip()


@needs_limits
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("memory.max", str(256 << 20)),
        ("memory.oom.group", "1"),
        ("pids.max", "65"),
        ("cpu.max", "200000 100000"),
    ],
)
def test_usual_limit_is_set_by_the_kernel(file: str, content: str) -> None:
    assert limited("pass", file) == (0, content)


@needs_limits
def test_process_that_takes_more_memory_than_its_limit_is_killed() -> None:
    status, events = limited("bytearray(b'x') * (128 << 20)", "memory.events", "memory=64M")

    assert status == -signal.SIGKILL
    assert "oom_group_kill 1" in events


@needs_limits
def test_process_with_as_many_threads_as_its_limit_gets_no_more() -> None:
    work = """
        try:
            for _ in range(20):
                threading.Thread(target=time.sleep, args=[100], daemon=True).start()
        except RuntimeError:
            os._exit(7)
    """

    assert limited(work, "pids.events", "pids=9") == (7, "max 1")


@needs_limits
def test_process_that_computes_more_than_its_limit_waits() -> None:
    work = "while time.process_time() < 0.2:\n    pass"

    status, counts = limited(work, "cpu.stat", "cpu=0.1")

    assert status == 0
    assert dict(map(str.split, counts.splitlines()))["nr_throttled"] != "0"
