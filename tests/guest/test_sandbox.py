"""Guests whose machine is in the sandbox: nothing that a run does is refused."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.guest import bare_metal as bare
from vmm.image import default_kernel
from vmm.sandbox import jail
from vmm.sandbox.host import missing
from vmm.sandbox.policy import ALLOW, policy
from vmm.testing import Guest

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"sandbox: {'; '.join(missing())}")

DEADLINE = 280.0

# Asks about every call, whatever the policy says of it, and lets all go on.
RECORDED = """
import sys
from vmm.cli import main
from vmm.sandbox import process
from vmm.sandbox.policy import ENOSYS, USER_NOTIF
process._asking = lambda action: action if action == ENOSYS else USER_NOTIF
sys.exit(main(sys.argv[1:]))
"""

# A host whose kernel has not these system calls.
WITHOUT = """
import sys
from vmm.sandbox import host
from vmm.sandbox.program import INSTRUCTION
code = [(0x20, 0, 0, 0)]
for number in {numbers}:
    code += (0x15, 0, 1, number), (6, 0, 0, 0x50026)
code.append((6, 0, 0, 0x7FFF0000))
host.set_filter(b"".join(INSTRUCTION.pack(*one) for one in code), all_threads=True)
from vmm.cli import main
sys.exit(main(sys.argv[1:]))
"""

# Has a file system of 256 KiB for a disk of 4 MiB.
ON_A_FULL_DISK = """
mount -t tmpfs -o size=256k none /mnt && truncate -s 4M /mnt/disk && exec "$@"
"""

# A shell with job control, as far as one job needs it: waits for its stop, and continues it.
SHELL = """
import os, signal, subprocess, sys
def take_terminal():
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
job = subprocess.Popen([sys.executable, "-m", "vmm", *sys.argv[1:]], preexec_fn=take_terminal)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
status = os.waitpid(job.pid, os.WUNTRACED)[1]
os.tcsetpgrp(0, os.getpid())
print("stopped" if os.WIFSTOPPED(status) else f"ended, {status}", flush=True)
os.tcsetpgrp(0, job.pid)
os.killpg(job.pid, signal.SIGCONT)
job.wait()
os.tcsetpgrp(0, os.getpid())
print(f"ended by {job.returncode}.", flush=True)
"""

MakeKernel = Callable[[bytes], str]


@pytest.fixture
def kernel(tmp_path: Path) -> MakeKernel:
    return lambda code: str(bare.write_kernel(tmp_path / "kernel", code + bare.SPIN))


def run(*arguments: str, program: str = "") -> subprocess.CompletedProcess[str]:
    start = ["-c", program] if program else ["-m", "vmm"]
    command = [sys.executable, *start, "run", *arguments]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE
    )


def test_running_machine_is_confined(kernel: MakeKernel) -> None:
    command = [sys.executable, "-m", "vmm", "run", "--sandbox=require", "--kernel"]
    arguments = [kernel(bare.say("up")), "--no-rng"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"up"
        opened = [os.readlink(one) for one in Path(f"/proc/{process.pid}/fd").iterdir()]
        found = [
            dict(re.findall(r"(\w+):\s+(\d+)", status.read_text()))
            for status in Path(f"/proc/{process.pid}/task").glob("*/status")
        ]
        process.send_signal(signal.SIGTERM)

    assert len(found) > 3
    assert {(one["NoNewPrivs"], one["Seccomp"]) for one in found} == {("1", "2")}
    assert "/dev/kvm" not in opened


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ([444], "no Landlock: this kernel has none"),
        ([317], "no seccomp filters that end a process"),
        ([444, 317], "no Landlock: this kernel has none; no seccomp filters that end a process"),
    ],
    ids=["landlock", "seccomp", "both"],
)
def test_part_that_the_host_lacks_is_told_in_a_line_or_refused(
    kernel: MakeKernel, numbers: list[int], told: str
) -> None:
    program = WITHOUT.format(numbers=numbers)
    guest = ("--kernel", kernel(bare.say("up") + bare.out8(0xF4, 0)), "--no-rng", "--timeout=60")

    done = run("--sandbox=auto", *guest, program=program)
    refused = run("--sandbox=require", *guest, program=program)

    assert (done.stdout, done.returncode) == ("up", 0)
    assert done.stderr.splitlines() == [
        f"vmm: sandbox: {told}: going on without that",
        "vmm: the guest reported status 0",
    ]
    assert (refused.stdout, refused.returncode) == ("", 125)
    assert refused.stderr == f"vmm: sandbox: {told} (--sandbox=auto takes what is there)\n"


def test_calls_of_a_run_are_those_of_the_list(kernel: MakeKernel, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    code = bare.say("up") + bare.out8(0xF4, 0)
    allowed = {name for name, rule in policy((), 0).items() if rule.otherwise == ALLOW}

    done = run(
        *("--sandbox=log", "--kernel", kernel(code), f"--disk={disk}", "--timeout=60"),
        program=RECORDED,
    )
    made = set(re.findall(r"would refuse (\w+)", done.stderr))

    assert (done.stdout, done.returncode) == ("up", 0)
    assert {"ioctl", "write", "futex", "clone", "mmap", "exit_group"} <= made
    by_argument = {"ioctl", "mmap", "mprotect", "clone", "newfstatat", "fcntl", "prctl", "tgkill"}
    by_argument |= {"madvise", "kill"}
    assert made - by_argument <= allowed


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        (bare.UNDEFINED, 122, "triple fault"),
        (bare.out8(0x505, 1), 121, "pvpanic"),
        (bare.HALT_FOR_EVER, 126, "halted for ever"),
        (b"\xb8\x00\x00\x00\xd0\xff\xe0", 123, "could not emulate"),  # jumps to where no RAM is
    ],
)
def test_crash_is_told_whole_in_the_sandbox(
    kernel: MakeKernel, code: bytes, status: int, told: str
) -> None:
    done = run(
        *("--sandbox=require", "--stats", "--timeout=60"),
        *("--kernel", kernel(bare.say("up") + code)),
    )

    assert done.returncode == status, done.stderr
    assert told in done.stderr
    assert "vmm: exits: " in done.stderr


@pytest.mark.guest
def test_nothing_that_a_run_does_is_refused(tmp_path: Path) -> None:
    default_kernel(cpus=2)  # which takes minutes, once
    disk = tmp_path / "disk"
    os.truncate(os.open(disk, os.O_CREAT | os.O_RDWR), 1 << 20)
    script = "cat /dev/vda | md5sum; dd if=/dev/zero of=/dev/vda bs=64k count=3; sync"

    done = run(
        *("--sandbox=log", "--stats", "--cpus=2", f"--disk={disk}", "--timeout=250"),
        *("--", "sh", "-c", script),
    )

    # The C library counts processors for its allocator, and does without.
    refused = [
        line
        for line in done.stderr.splitlines()
        if "would refuse" in line and "/sys/devices/system/cpu/" not in line
    ]
    assert refused == []
    assert done.returncode == 0


@pytest.mark.guest
def test_confined_guest_reads_and_writes_its_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"of the host\n".ljust(1 << 20, b"\0"))
    script = "head -n 1 /dev/vda; echo of the guest | dd of=/dev/vda bs=512 seek=9 conv=sync; sync"

    done = run(
        *("--sandbox=require", f"--disk={disk}", "--timeout=250"),
        *("--", "sh", "-c", script),
    )

    assert (done.stdout, done.returncode) == ("of the host\n", 0)
    assert disk.read_bytes()[9 * 512 :].startswith(b"of the guest\n")


@pytest.mark.guest
@pytest.mark.skipif(bool(jail.missing()), reason=jail.missing())
def test_confined_guest_sees_the_errors_of_its_disks_and_goes_on(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(bytes(4 << 20))
    script = (
        "dd if=/dev/zero of=/dev/vda bs=64k count=64 conv=fsync || echo full;"
        "echo now; read line;"
        "dd if=/dev/vdb of=/dev/null bs=64k skip=32 || echo short;"
        "dd if=/dev/vdb of=/dev/null bs=64k count=16 && echo whole"
    )
    command = [
        *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", ON_A_FULL_DISK, "sh"),
        *(sys.executable, "-m", "vmm", "run", "--sandbox=require", "--timeout=250"),
        *("--disk=/mnt/disk", f"--disk={short}", "--", "sh", "-c", script),
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(2)]
        os.truncate(short, 1 << 20)
        output, errors = process.communicate("\n", DEADLINE)

    assert told == ["full\n", "now\n"], errors
    assert output == "short\nwhole\n"
    assert errors.count("I/O error") + errors.count("No space left") >= 2
    assert process.returncode == 0


@pytest.mark.guest
def test_demonstration_is_confined() -> None:
    command = [sys.executable, "-m", "vmm", "demo", "--sandbox=require"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)

    assert done.returncode == 0, done.stderr
    assert "on the host: found in the disk image" in done.stdout


def test_confined_machine_is_suspended_and_continued(kernel: MakeKernel) -> None:
    machine = ["run", "--sandbox=require", "--no-rng", "--kernel", kernel(bare.say("up"))]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", SHELL, *machine])
    try:
        seen(terminal, "up")
        os.write(terminal, b"\x01z")
        seen(terminal, "stopped")
        os.write(terminal, b"\x01x")
        end = seen(terminal, "ended by 1")
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)

    assert "ended by Ctrl-A x" in end


def seen(terminal: int, text: str) -> str:
    """Read from a terminal until it has shown ``text``; all that it showed."""
    shown = ""
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], DEADLINE)
        assert ready, f"no {text!r} in {shown!r}"
        shown += os.read(terminal, 1 << 16).decode(errors="replace")
    return shown


@pytest.mark.guest(sandbox="require")
def test_threads_of_a_tests_guest_are_confined_and_the_test_is_not(guest: Guest) -> None:
    assert guest.sh("echo here") == "here"
    served = threading.Event()
    guest.machine.loop.call_soon_threadsafe(served.set)
    assert served.wait(DEADLINE)
    filtered = set()
    for thread in threading.enumerate():
        with suppress(FileNotFoundError):  # one that has ended
            status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
            filtered |= {thread.name} if "Seccomp:\t2" in status else set()

    assert {"vcpu-0", "event-loop", "console"} <= filtered
    assert "MainThread" not in filtered
    with guest.machine.snapshot() as snapshot:
        assert snapshot.config.memory_bytes == 128 << 20
