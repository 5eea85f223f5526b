"""``vmm snapshot`` and ``vmm run --restore``, with a guest that says one word before, one after."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest import bare_metal as bare

DEADLINE = 120.0
MACHINE = ("--memory", "32M", "--no-rng")

pytestmark = pytest.mark.timeout(300)


def vmm(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "vmm", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A guest saved between its two words, while it counts down: mov ecx, n; 1: dec ecx; jnz 1b."""
    pause = b"\xb9" + (8_000_000).to_bytes(4, "little") + b"\x49\x75\xfd"
    code = bare.say("before\n") + pause + bare.say("after\n") + bare.out8(0xF4, 7) + bare.SPIN
    kernel = bare.write_kernel(tmp_path / "kernel", code)
    folder = tmp_path / "saved"
    done = vmm("snapshot", str(folder), "--kernel", str(kernel), "--when", "before", *MACHINE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"before\n"
    assert done.stderr.decode().strip() == f"vmm: saved in {folder}"
    return folder


def test_a_saved_guest_goes_on_as_often_as_wanted(saved: Path) -> None:
    runs = [vmm("run", "--restore", str(saved)) for _ in range(2)]

    assert [(run.returncode, run.stdout) for run in runs] == [(7, b"after\n")] * 2
    assert all(b"the guest reported status 7" in run.stderr for run in runs)


def test_a_folder_that_is_there_is_not_written_to(saved: Path) -> None:
    again = vmm("snapshot", str(saved), "--when", "x")

    assert again.returncode == 2
    assert again.stderr.decode() == f"vmm: snapshot {saved}: exists; choose a new name\n"


def test_what_cannot_be_restored_is_one_line_and_status_2(saved: Path, tmp_path: Path) -> None:
    absent = vmm("run", "--restore", str(tmp_path / "absent"))
    changed = vmm("run", "--restore", str(saved), "--memory", "1G", "--no-rng")
    command = vmm("run", "--restore", str(saved), "--", "uname")
    (saved / "memory").write_bytes(b"")
    damaged = vmm("run", "--restore", str(saved))

    assert [run.returncode for run in (absent, changed, command, damaged)] == [2, 2, 2, 2]
    assert b"absent/state: No such file or directory" in absent.stderr
    assert b"the machine is as it was saved; take --memory, --rng away" in changed.stderr
    assert b"no agent in it runs commands" in command.stderr
    assert b"damaged: 0 bytes, 33554432 are expected" in damaged.stderr
