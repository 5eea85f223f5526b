"""``vmm run --explain`` and ``vmm check-driver`` with kernels of a few instructions, confined."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest.bare_metal import HALT_FOR_EVER, SPIN, load32, out8, store32, write_kernel

WINDOW = 0xC000_1000  # of the first device on MMIO, the entropy device
STATUS, NOTIFY = 0x70, 0x50


def write(register: int, value: int) -> bytes:
    return store32(WINDOW + register, value)


def read(register: int) -> bytes:
    return load32(WINDOW + register)


IDENTIFY = read(0x00) + read(0x04) + read(0x08) + write(STATUS, 0) + read(STATUS)
NEGOTIATE = (
    *(IDENTIFY, write(STATUS, 1), write(STATUS, 3), write(0x14, 1), read(0x10)),
    *(write(0x24, 1), write(0x20, 1), write(STATUS, 0x0B), read(STATUS)),
)
QUEUE = (
    *(write(0x30, 0), write(0x38, 16), write(0x80, 0x110_0000), write(0x90, 0x110_1000)),
    *(write(0xA0, 0x110_2000), write(0x44, 1)),
)
END = out8(0xF4, 42)


def vmm(command: str, kernel: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "vmm", command, "--kernel", str(kernel), "--memory", "64M"]
    return subprocess.run(
        [*words, "--timeout", "100", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_mistakes_are_explained_and_the_status_is_the_guests(tmp_path: Path) -> None:
    code = write(STATUS, 1) + write(0x40, 5) + write(NOTIFY, 0) + END
    done = vmm("run", write_kernel(tmp_path / "kernel", code), "--explain")

    assert done.returncode == 42
    lines = [line for line in done.stderr.splitlines() if "driver check:" in line]
    assert [line.rpartition("[")[2] for line in lines] == [
        *("never-reset]", "not-identified]", "register-legacy]", "kick-before-driver-ok]"),
        "driver-never-set]",
    ]
    assert "vmm:   rule DRV-INI-02 (VIRTIO 1.2, 3.1.1" in done.stderr
    assert "next: write the addresses of the areas to 0x080-0x0a4" in done.stderr


def test_what_a_driver_left_out_is_explained_when_the_guest_stands_still(tmp_path: Path) -> None:
    code = b"".join((*NEGOTIATE, *QUEUE, write(STATUS, 0x0F), write(NOTIFY, 0), HALT_FOR_EVER))
    done = vmm("run", write_kernel(tmp_path / "kernel", code), "--explain")

    assert done.returncode == 126
    lines = [line for line in done.stderr.splitlines() if "driver check:" in line]
    assert [line.rpartition("[")[2] for line in lines] == ["nothing-available]"]


def test_a_guest_that_runs_on_is_explained_when_its_time_is_over(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path / "kernel", b"".join((*NEGOTIATE, SPIN)))
    done = vmm("run", kernel, "--explain", "--timeout", "2")

    assert done.returncode == 124
    assert "[driver-ok-never-set]" in done.stderr


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_the_table_stands_alone_on_stdout_with_status_1_for_a_broken_duty(
    tmp_path: Path, options: list[str]
) -> None:
    code = b"".join((out8(0x3F8, ord("x")), *NEGOTIATE, write(STATUS, 4), END))
    done = vmm("check-driver", write_kernel(tmp_path / "kernel", code), *options)

    assert done.returncode == 1
    if options:
        duties = {one["id"]: one["verdict"] for one in json.loads(done.stdout)["duties"]}
    else:
        rows = (line.split() for line in done.stdout.splitlines() if line.startswith("DRV-"))
        duties = {row[0]: row[1] for row in rows}
    assert [name for name, verdict in duties.items() if verdict == "broken"] == ["DRV-STA-01"]
    assert duties["DRV-INI-05"] == "kept"


def test_a_guest_that_breaks_nothing_has_status_0_whatever_it_reports(tmp_path: Path) -> None:
    code = b"".join((*NEGOTIATE, *QUEUE, write(STATUS, 0x0F), END))
    done = vmm("check-driver", write_kernel(tmp_path / "kernel", code))

    assert done.returncode == 0, done.stdout
    assert ", 0 broken, " in done.stdout.splitlines()[-1]


def test_a_table_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path / "kernel", END)
    words = [sys.executable, "-m", "vmm", "check-driver", "--kernel", str(kernel)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=200)

    assert done.returncode == 125
    assert "vmm: the table of duties: standard output: No space left on device" in done.stderr


def test_a_guest_that_hangs_and_breaks_nothing_has_the_status_of_a_run(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path / "kernel", b"".join((IDENTIFY, HALT_FOR_EVER)))
    done = vmm("check-driver", kernel)

    assert done.returncode == 126
    assert "[no-driver]" in done.stdout


def test_a_guest_that_is_started_again_has_no_table(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path / "kernel", END)
    done = vmm("check-driver", kernel, "--on-reboot=restart")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "vmm: check-driver: one table is of one boot; take --on-reboot away\n"
