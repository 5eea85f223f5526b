"""``vmm run --jail``: all that a run is without a jail, and nothing of the host in reach."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.guest import bare_metal as bare
from tests.workflow.command import DEADLINE, VMM, on_terminal, shell
from vmm.sandbox.cgroup import finding, own_cgroup
from vmm.sandbox.jail import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
needs_limits = pytest.mark.skipif(
    not finding().startswith("limits of memory, pids, cpu"), reason=f"cgroups: {finding()}"
)

MakeKernel = Callable[[bytes], str]

ROOT = Path(__file__).parents[2]
WITH_LIMITS = ("--jail", "--sandbox=require", "--no-rng")
JAILED = ("--jail", "--sandbox=require", "--jail-limit=none", "--no-rng")

# Where QEMU's programs are not installed, there are no other images than raw ones.
QCOW2 = "qcow2" if shutil.which("qemu-img") and shutil.which("qemu-nbd") else "raw"

# Another user may neither use our device nor, perhaps, our interpreter: it gets one of its own.
AS_ANOTHER = """
folder=$(mktemp -d) && mknod -m 666 $folder/kvm c 10 232 && mount --bind $folder/kvm /dev/kvm
rm $folder/kvm && rmdir $folder
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"""


def run(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    command = [VMM, "run", *JAILED, *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE)


def reporting(code: bytes, status: int) -> bytes:
    """Code after which the guest reports a status, by the debug-exit port."""
    return code + bare.out8(0xF4, status)


def test_guest_runs_and_its_status_comes_out(kernel: MakeKernel) -> None:
    done = run("--cpus=2", "--kernel", kernel(reporting(bare.say("up"), 3)))

    assert (done.stdout, done.returncode) == (b"up", 3)


@needs_limits
def test_machine_has_the_limits_of_a_cgroup_which_goes_away(kernel: MakeKernel) -> None:
    words = ("--memory=64M", "--jail-limit=pids=40", "--kernel", kernel(bare.say("up")))
    command = [VMM, "run", *WITH_LIMITS, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"up"
        place = cgroup_of_jail(process.pid)
        found = [(place / name).read_text().strip() for name in ("memory.max", "pids.max")]
        process.terminate()

    assert found == [str((64 + 128) << 20), "40"]
    assert not place.exists()


@needs_limits
def test_machine_that_takes_more_memory_than_its_limit_is_ended_with_a_line(
    kernel: MakeKernel,
) -> None:
    # mov edi, 32 MiB; mov ecx, pages; 1: mov [edi], eax; add edi, 4096; dec ecx; jnz 1b
    touch = "bf00000002 b900c00000 8907 81c700100000 49 75f5"
    code = kernel(bare.say("up") + bytes.fromhex(touch) + bare.out8(0xF4, 3))
    words = [VMM, "run", *WITH_LIMITS, "--memory=256M", "--kernel", code]
    limited = subprocess.run(
        [*words, "--jail-limit=memory=96M"], capture_output=True, timeout=DEADLINE
    )
    usual = subprocess.run(words, capture_output=True, timeout=DEADLINE)

    assert (limited.returncode, limited.stdout) == (137, b"up")
    assert b"vmm: jail: the machine was ended, for it went over the limit of memory" in (
        limited.stderr
    )
    assert (usual.returncode, usual.stdout) == (3, b"up")


def cgroup_of_jail(keeper: int) -> Path:
    """Return the folder of the cgroup that the machine of a keeper is in."""
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    found = "".join(Path(f"/proc/{one}/cgroup").read_text() for one in children)
    name = str(re.findall(r"^0::.*/(vmm-jail-\d+)$", found, re.MULTILINE)[0])
    own = own_cgroup()
    assert own is not None
    return next(one / name for one in (own, *own.parents) if (one / name).exists())


def test_time_limit_ends_the_guest(kernel: MakeKernel) -> None:
    assert run("--timeout=0.2", "--kernel", kernel(bare.say("up"))).returncode == 124


def test_guest_runs_for_another_user() -> None:
    python = shutil.which(f"python{sys.version_info[0]}.{sys.version_info[1]}", path="/usr/bin")
    if os.geteuid() != 0 or python is None:
        pytest.skip("needs root, and an interpreter that all users may use")
    packages = [str(ROOT), *(one for one in sys.path if one.endswith("site-packages"))]
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        kernel = bare.write_kernel(Path(folder, "kernel"), reporting(bare.say("up"), 3))
        words = [python, "-m", "vmm", "run", *JAILED, "--kernel", str(kernel)]
        done = subprocess.run(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", AS_ANOTHER, "sh", *words],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(packages), "HOME": "/tmp"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE,
        )

    assert (done.stdout, done.returncode, done.stderr) == (
        b"up",
        3,
        b"vmm: the guest reported status 3\n",
    )


def test_signal_reaches_the_machine_and_its_status_the_shell(kernel: MakeKernel) -> None:
    command = [VMM, "run", *JAILED, "--kernel", kernel(bare.say("up"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"up"
        process.terminate()
        _, told = process.communicate(timeout=DEADLINE)

    assert process.returncode == 130
    assert b"interrupted by SIGTERM" in told


def test_guest_that_reboots_starts_again_in_the_jail(kernel: MakeKernel) -> None:
    reboot = bare.say("up") + bare.out8(0x64, 0xFE)
    command = [VMM, "run", *JAILED, "--on-reboot=restart", "--kernel", kernel(reboot)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == b"upupup"
        process.terminate()
        process.communicate(timeout=DEADLINE)

    assert process.returncode == 130


def test_job_of_a_terminal_is_suspended_and_goes_on(kernel: MakeKernel) -> None:
    with on_terminal("bash", "--norc", "--noprofile", "-i") as terminal:
        terminal.read_until(b"$ ")
        words = " ".join(("$vmm", "run", *JAILED, "--kernel", kernel(bare.say("up"))))
        terminal.type(f"{words}\n".encode())
        terminal.read_until(b"Ctrl-A x")
        terminal.wait_until(raw=True)
        terminal.type(b"\x01z")
        stopped = terminal.read_until(b"$ ")
        terminal.wait_until(raw=False)
        terminal.type(b"fg\n")
        terminal.wait_until(raw=True)
        terminal.type(b"\x01x")
        terminal.read_until(b"ended by Ctrl-A x")
        terminal.read_until(b"$ ")
        terminal.type(b"echo status $?; exit\n")
        terminal.read_until(b"status 130")

    assert b"Stopped" in stopped


def test_job_in_the_background_leaves_the_terminal_alone(kernel: MakeKernel) -> None:
    with on_terminal("bash", "--norc", "--noprofile", "-i") as terminal:
        terminal.read_until(b"$ ")
        path = kernel(bare.say("up"))
        terminal.type(f"stty echo icanon; $vmm run {' '.join(JAILED)} --kernel {path} &\n".encode())
        terminal.read_until(b"Ctrl-A h shows more keys")
        terminal.read_until(b"up")
        terminal.type(b"echo one''two\n")
        terminal.read_until(b"onetwo")
        terminal.type(b"fg\n")
        terminal.wait_until(raw=True)
        terminal.type(b"\x01x")
        terminal.read_until(b"ended by Ctrl-A x")


def test_disks_work_and_a_volatile_one_stays_as_it_was(ready: Path, tmp_path: Path) -> None:
    raw, volatile, image = tmp_path / "raw", tmp_path / "volatile", tmp_path / "image"
    for disk in (raw, volatile):
        disk.write_bytes(b"old" + bytes((1 << 20) - 3))
    convert(raw, image, QCOW2)
    script = "for one in vda vdb vdc; do printf new | dd of=/dev/$one conv=notrunc; done; sync"
    disks = [f"--disk={one}" for one in (raw, f"{volatile},volatile", f"{image},format={QCOW2}")]
    done = run(*disks, "--", "sh", "-c", f"head -c 3 /dev/vdc; {script}; uname")
    convert(image, tmp_path / "within", "raw")

    assert (done.stdout, done.returncode) == (b"oldLinux\n", 0)
    assert raw.read_bytes()[:3] == b"new"
    assert volatile.read_bytes()[:3] == b"old"
    assert (tmp_path / "within").read_bytes()[:3] == b"new"


def convert(source: Path, target: Path, form: str) -> None:
    """Copy an image in another form."""
    copy = ["cp"] if QCOW2 == "raw" else ["qemu-img", "convert", "-O", form]
    subprocess.run([*copy, source, target], check=True)


def test_saved_guest_goes_on_in_the_jail(ready: Path) -> None:
    done = run_restored(ready, "--", "sh", "-c", "echo here; exit 5")

    assert (done.stdout, done.returncode) == (b"here\n", 5)


def run_restored(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    words = [VMM, "run", *JAILED[:-1], "--restore", str(folder), *arguments]
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--jail-limit=pids=9", "--jail-limit: it is for --jail, which is not given"),
        ("--jail --jail-limit=pids=0", "--jail-limit pids=0: must be 1 to 4194304"),
        (
            "--jail --share .:/src",
            "--jail: it hides all directories of the host, and with them what --share and --root"
            " name; take either away",
        ),
    ],
)
def test_limit_that_cannot_be_is_one_line(kernel: MakeKernel, words: str, message: str) -> None:
    done = shell(f'"$vmm" run {words} --kernel "$1"', kernel(b""))

    assert (done.returncode, done.stdout) == (2, b"")
    assert re.fullmatch(f"vmm: {re.escape(message)}\n", done.stderr.decode())
