"""What the host does not give ends the command in one line and 125, never as the guest would."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import bare_metal as bare

DEADLINE = 120.0
GUESTS_STATUS = 7


@pytest.fixture
def kernel(tmp_path: Path) -> str:
    code = bare.out8(0xF4, GUESTS_STATUS) + bare.SPIN
    return str(bare.write_kernel(tmp_path / "kernel", code))


def vmm(limits: str, *arguments: str) -> tuple[int, str]:
    """Run the command under limits of a shell; return its status and what it said."""
    line = [sys.executable, "-m", "vmm", *arguments]
    done = subprocess.run(
        ["sh", "-c", f'{limits}; exec "$@"', "sh", *line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE,
        text=True,
    )
    return done.returncode, done.stderr


def refusals(kernel: str, limits: list[str]) -> Iterator[tuple[int, str]]:
    for limit in limits:
        yield vmm(limit, "run", "--memory", "64M", "--kernel", kernel)


def test_few_open_files_are_the_hosts_refusal_wherever_they_run_out(kernel: str) -> None:
    for status, said in refusals(kernel, [f"ulimit -n {files}" for files in (6, 8, 10, 12, 14)]):
        assert status == 125, said
        assert said.count("\n") == 1, said
        assert "Too many open files" in said
        assert "ulimit -n" in said


def test_small_files_are_the_hosts_refusal(kernel: str) -> None:
    for status, said in refusals(kernel, ["ulimit -f 0", "ulimit -f 100"]):
        assert (status, said.count("\n")) == (125, 1), said
        assert "ulimit -f" in said


def test_little_memory_is_the_hosts_refusal(kernel: str) -> None:
    for status, said in refusals(kernel, ["ulimit -v 40000", "ulimit -v 100000"]):
        assert (status, said.count("\n")) == (125, 1), said
        assert "ulimit -v" in said


def test_no_place_for_temporary_files_is_the_hosts_refusal(tmp_path: Path) -> None:
    script = (
        "import sys, tempfile; from vmm.cli import main\n"
        "tempfile._candidate_tempdir_list = lambda: ['/proc/nothing']\n"
        "sys.exit(main(['demo']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE
    )

    assert done.returncode == 125
    assert done.stderr.startswith("vmm: the host refused: No usable temporary directory found in")
    assert done.stderr.count("\n") == 1


def test_sparse_volatile_disk_of_15_tib_takes_what_is_in_it(kernel: str, tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(15 << 40)
    limit = "ulimit -v 1000000"

    status, said = vmm(limit, "run", "--kernel", kernel, "--disk", f"{tmp_path}/huge,volatile")

    assert (status, said) == (GUESTS_STATUS, f"vmm: the guest reported status {GUESTS_STATUS}\n")


def test_initrd_of_5_gib_is_refused_unread(kernel: str, tmp_path: Path) -> None:
    with (tmp_path / "initrd").open("wb") as file:
        file.truncate(5 << 30)
    line = ["run", "--kernel", kernel, "--initrd", str(tmp_path / "initrd")]

    status, said = vmm("ulimit -v 1000000", *line)
    assert status == 2
    assert "this kernel takes " in said
    assert " at most, whatever the RAM" in said

    status, said = vmm("ulimit -v 1000000", *line, "--agent", "beside")
    assert status == 2
    assert "has 5368709120 bytes, more than the 134217728 bytes of RAM of its machine" in said
