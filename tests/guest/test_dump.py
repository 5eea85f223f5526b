"""A machine as a core file: while it runs, after its end, and from a saved one."""

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.guest import bare_metal as bare
from tests.guest.gdb_client import SECONDS, gdb, needs_gdb
from vmm.config import MachineConfig
from vmm.machine import Machine

Configure = Callable[[bytes], MachineConfig]

MARK = bare.store32(0x180_0000, 0x1234_5678) + b"\xbb\x2a\0\0\0"  # mov ebx, 42


def status_of(core: Path) -> dict[str, int]:
    """Return registers of the first NT_PRSTATUS, by struct user_regs_struct."""
    data = core.read_bytes()
    (offset,) = struct.unpack_from("<Q", data, 64 + 8)
    assert struct.unpack_from("<III", data, offset) == (5, 336, 1)
    words = struct.unpack_from("<27Q", data, offset + 12 + 8 + 112)
    return {"rbx": words[5], "rip": words[16], "eflags": words[18]}


def test_a_running_guest_is_dumped_and_runs_on(bare_metal: Configure, tmp_path: Path) -> None:
    code = MARK + bare.say("up") + bare.SPIN
    with Machine(bare_metal(code)) as machine:
        machine.boot()
        machine.console.wait_for("up", timeout=SECONDS)
        machine.dump(tmp_path / "core")
        runs = machine.ending is None

    assert runs
    assert status_of(tmp_path / "core") == {
        "rbx": 42,
        "rip": bare.LOAD_ADDRESS + len(MARK + bare.say("up")),
        "eflags": 2,
    }


def test_a_guest_that_crashed_can_be_dumped(bare_metal: Configure, tmp_path: Path) -> None:
    with Machine(bare_metal(MARK + bare.UNDEFINED)) as machine:
        machine.boot()
        machine.wait(SECONDS)
        machine.dump(tmp_path / "core")

    assert status_of(tmp_path / "core")["rip"] in (bare.LOAD_ADDRESS + len(MARK), 0xFFF0)


@needs_gdb
def test_a_saved_guest_is_dumped_by_the_command_and_gdb_opens_it(
    bare_metal: Configure, tmp_path: Path
) -> None:
    with Machine(bare_metal(MARK + bare.say("up") + bare.SPIN)) as machine:
        machine.boot()
        machine.console.wait_for("up", timeout=SECONDS)
        with machine.snapshot() as snapshot:
            snapshot.save(tmp_path / "saved")
    command = [sys.executable, "-m", "vmm", "dump", f"{tmp_path}/saved", f"{tmp_path}/core"]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, timeout=SECONDS) for _ in range(2)
    )
    told = gdb([f"core-file {tmp_path}/core", "print $rbx", "x/wx 0x1800000"])

    assert (first.returncode, second.returncode) == (0, 2)
    assert second.stderr == f"vmm: core file {tmp_path}/core: exists; choose a new name\n"
    assert "$1 = 42" in told
    assert "0x1800000:\t0x12345678" in told


def test_what_is_no_snapshot_is_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vmm", "dump", str(tmp_path), str(tmp_path / "core")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
