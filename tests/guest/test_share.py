"""Directories of the host in a Linux guest: as files there, in clones, and as the root."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmm import Machine, MachineConfig
from vmm.image.kernel import recipe_folder
from vmm.image.program import compiled
from vmm.share.config import ShareConfig
from vmm.snapshot import Snapshot
from vmm.testing import Guest, GuestConfig

pytestmark = pytest.mark.timeout(1200)

BOOT_SECONDS = 600.0
CLONES = 50
READER = (
    "exec 5</src/file7; echo > /tmp/opened; until [ -e /tmp/go ]; do sleep 0.1; done;"
    " cat <&5 > /tmp/new; mv /tmp/new /tmp/read"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that a guest shares for writing, with a file for each clone."""
    folder = tmp_path_factory.mktemp("shared")
    for number in range(CLONES):
        (folder / f"file{number}").write_text(f"content {number}\n")
    return folder


@pytest.fixture(scope="module")
def saved(folder: Path) -> Iterator[Snapshot]:
    """A guest with that directory at /src, and for reading at /a/b/ro; a file there is open."""
    shares = (
        ShareConfig(str(folder), "/src", writable=True),
        ShareConfig(str(folder), "/a/b/ro"),
    )
    config = MachineConfig(agent="init", console="virtio", shares=shares)
    with Machine(config) as machine:
        machine.boot()
        machine.agent.wait_ready(BOOT_SECONDS)
        sh(machine, f"setsid sh -c '{READER}' > /dev/null & until [ -e /tmp/opened ]; do :; done")
        with machine.snapshot() as snapshot:
            yield snapshot


@pytest.fixture
def machine(saved: Snapshot) -> Iterator[Machine]:
    with Machine.restore(saved, sandbox="auto") as machine:
        machine.resume()
        yield machine


def sh(machine: Machine, script: str) -> str:
    """Run shell text and return what it says; what fails is told."""
    text = f"set -e; exec 2>&1\n{script}"
    return str(machine.agent.run(["sh", "-c", text], timeout=BOOT_SECONDS, check=True).stdout)


def test_both_see_what_the_other_writes(machine: Machine, folder: Path) -> None:
    (folder / "from host").write_text("hello guest")

    assert sh(machine, "cat '/src/from host'") == "hello guest"
    sh(machine, "umask 027; mkdir /src/new; echo hello > /src/new/file; echo more >> /src/new/file")

    assert (folder / "new" / "file").read_text() == "hello\nmore\n"
    assert (folder / "new" / "file").stat().st_mode & 0o777 == 0o640


def test_what_programs_do_with_files_works(machine: Machine, folder: Path) -> None:
    (folder / "work").mkdir()

    told = sh(
        machine,
        """
        cd /src/work
        echo content > a; ln a b; ln -s a c; mv a d
        cat c 2> /dev/null || echo dangling
        stat -c '%h %s' b; readlink c
        echo x | dd of=large bs=1 seek=5368709120 conv=notrunc 2> /dev/null
        stat -c '%s' large; truncate -s 3 b; cat d; echo
        exec 4<> unlinked; echo still there >&4; rm unlinked; stat -L -c '%h %s' /proc/self/fd/4
        exec 3<> kept; rm kept; ls
        mkfifo pipe; (echo through > pipe &) ; cat pipe
        chmod 604 d; stat -c '%a' d; touch -d '2001-02-03 04:05:06' d; stat -c '%y' d
        """,
    )

    assert told.splitlines() == [
        "dangling",
        "2 8",
        "a",
        "5368709122",
        "con",
        "0 12",
        "b",
        "c",
        "d",
        "large",
        "through",
        "604",
        told.splitlines()[-1],
    ]
    assert told.splitlines()[-1].startswith("2001-02-03 04:05:06")
    assert (folder / "work" / "large").stat().st_blocks < 100


def test_many_names_are_listed(machine: Machine, folder: Path) -> None:
    (folder / "many").mkdir()
    for number in range(600):
        (folder / "many" / f"a file with the number {number}").touch()

    assert sh(machine, "ls /src/many | wc -l; ls -l /src/many | grep -c number").split() == [
        *("600", "600")
    ]


def test_what_is_written_to_a_mapped_file_is_in_the_hosts(machine: Machine, folder: Path) -> None:
    program = compiled(recipe_folder() / "mapped.c")
    if program is None:
        pytest.skip("no C compiler for the guest's program")
    (folder / "mapped").write_bytes(b"of the host, and a tail")
    shutil.copy(program, folder / "program")

    told = sh(machine, "/src/program /src/mapped 'of the VMs! '; cat /src/mapped")

    assert told == "of the host,\nof the VMs!  and a tail"
    assert (folder / "mapped").read_bytes() == b"of the VMs!  and a tail"


def test_a_share_for_reading_is_not_written(machine: Machine, folder: Path) -> None:
    told = sh(machine, "cat /a/b/ro/file3; echo x > /a/b/ro/file3 || true")

    assert "content 3" in told
    assert "Read-only file system" in told
    assert (folder / "file3").read_text() == "content 3\n"


def test_an_open_file_is_open_after_a_restore(machine: Machine) -> None:
    """The process that has it read nothing before the guest was saved."""
    told = sh(machine, "echo > /tmp/go; until [ -e /tmp/read ]; do :; done; cat /tmp/read")

    assert told == "content 7\n"


def test_fifty_clones_each_read_another_file(saved: Snapshot) -> None:
    for number in range(CLONES):
        with Machine.restore(saved) as clone:
            clone.resume()
            content = clone.agent.read_file(f"/src/file{number}", BOOT_SECONDS)
        assert content == f"content {number}\n".encode()


class TestInThePlugin:
    @pytest.fixture
    def guest_config(self, tmp_path: Path) -> GuestConfig:
        (tmp_path / "input").write_text("given to the test")
        return GuestConfig(shares=(f"{tmp_path}:/mnt/data,rw",), deadline=BOOT_SECONDS)

    def test_a_test_has_its_directory(self, guest: Guest, tmp_path: Path) -> None:
        assert guest.sh("cat /mnt/data/input; echo done > /mnt/data/output") == "given to the test"
        assert (tmp_path / "output").read_text() == "done\n"


def vmm_run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vmm", "run", "--timeout", str(BOOT_SECONDS), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOOT_SECONDS + 60,
        cwd=cwd,
    )


def test_a_command_has_the_hosts_userspace_and_the_callers_folder(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("seen")
    script = (
        "pwd; id -u; id -g; cat here; echo lost > here; cat here; exec 2>&1; ls /proc/1; exit 3"
    )

    done = vmm_run("--root", "/", "--", "sh", "-c", script, cwd=tmp_path)

    lines = done.stdout.split()
    ours = [str(tmp_path), str(os.geteuid()), str(os.getegid()), "seenlost"]
    assert (done.returncode, lines[:4]) == (3, ours), done.stderr
    assert "cmdline" in lines
    assert (tmp_path / "here").read_text() == "seen"


def test_a_share_that_is_not_there_is_told_before_a_guest_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for source, message in (("none", "No such file"), ("file", "must be a directory")):
        done = vmm_run("--share", f"{tmp_path / source}:/src", "--", "true")

        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
