"""The command line as a user meets it: exit statuses, one-line errors, nothing left behind."""

import importlib.metadata
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.guest import bare_metal as bare
from tests.guest.test_acpi import LISTEN as LISTEN_TO_THE_BUTTON
from tests.guest.test_acpi import POWER_OFF, SAY_NEXT_EVENT

DEADLINE = 120.0
MakeKernel = Callable[[bytes], str]

# Waits for ACPI's event interrupt, says what it reads there, and writes what stands for S5.
SWITCHES_ITSELF_OFF = LISTEN_TO_THE_BUTTON + bare.say("up\n") + SAY_NEXT_EVENT + POWER_OFF

DICE = """
from virtio import Device, queue

class Dice(Device):
    device_id = 4

    def __init__(self, sides):
        super().__init__()

    @queue(size=64)
    def requestq(self, chain):
        return chain.write(b"6")
"""


@pytest.fixture
def kernel(tmp_path: Path) -> MakeKernel:
    return lambda code: str(bare.write_kernel(tmp_path / "kernel", code + bare.SPIN))


def vmm(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "vmm", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE)


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "vmm", "run", "--no-rng", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def output_of(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return process.stdout.fileno()


@contextmanager
def started_on_terminal(*arguments: str) -> Iterator[tuple[int, int]]:
    """Give the process, and the other end of the terminal that it is on."""
    command = [sys.executable, "-m", "vmm", "run", "--no-rng", *arguments]
    # Unbuffered, there would be nothing left to be said in the end.
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, command, environment)
    try:
        yield pid, terminal
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.close(terminal)


def read_until(fd: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        assert select.select([fd], [], [], DEADLINE)[0], f"no {wanted!r} in {seen!r}"
        seen += os.read(fd, 4096)
    return seen


def test_guest_output_goes_to_stdout_and_the_ending_to_stderr(kernel: MakeKernel) -> None:
    done = vmm("run", "--kernel", kernel(bare.say("hello\n") + bare.out8(0xF4, 7)))

    assert (done.returncode, done.stdout) == (7, b"hello\n")
    assert done.stderr == b"vmm: the guest reported status 7\n"


def test_stats_are_exact(kernel: MakeKernel) -> None:
    done = vmm("run", "--stats", "--kernel", kernel(bare.say("abc") + bare.out8(0xF4, 0)))

    assert b"vmm: exits: io 4" in done.stderr
    assert b"entropy: 0 kicks, 0 completions" in done.stderr


def test_timeout_ends_a_guest_that_spins(kernel: MakeKernel) -> None:
    done = vmm("run", "--timeout", "0.3", "--kernel", kernel(b""))

    assert done.returncode == 124
    assert b"vCPU 0: rip 0x1000000" in done.stderr


def test_reboot_ends_the_run_by_default(kernel: MakeKernel) -> None:
    done = vmm("run", "--kernel", kernel(bare.say("up\n") + bare.out8(0x64, 0xFE)))

    assert (done.returncode, done.stdout) == (120, b"up\n")


def test_reboot_can_restart_the_machine(kernel: MakeKernel) -> None:
    code = bare.say("up\n") + bare.out8(0x64, 0xFE)
    with started("--on-reboot", "restart", "--kernel", kernel(code)) as process:
        read_until(output_of(process), b"up\nup\nup\n")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE)

    assert process.returncode == 130


def test_timeout_bounds_all_rounds_of_a_restarted_machine_together(kernel: MakeKernel) -> None:
    code = bare.say("up\n") + bare.out8(0x64, 0xFE)

    done = vmm("run", "--timeout", "4", "--on-reboot", "restart", "--kernel", kernel(code))

    assert done.returncode == 124
    assert done.stdout.count(b"up\n") > 1
    assert b"vmm: the guest made no end within its time of 4 s\n" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_the_run_in_good_order(kernel: MakeKernel, number: signal.Signals) -> None:
    with started("--kernel", kernel(bare.say("up\n"))) as process:
        read_until(output_of(process), b"up\n")
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE)

    assert process.returncode == 130
    assert errors == f"vmm: interrupted by {number.name}\n".encode()


def test_guest_that_listens_to_its_button_is_asked_by_sigterm(kernel: MakeKernel) -> None:
    with started("--kernel", kernel(SWITCHES_ITSELF_OFF)) as process:
        read_until(output_of(process), b"up\n")
        process.terminate()
        _, errors = process.communicate(timeout=DEADLINE)

    assert process.returncode == 0, errors


def test_guest_that_listens_to_its_button_is_asked_by_ctrl_a_p(kernel: MakeKernel) -> None:
    with started_on_terminal("--kernel", kernel(SWITCHES_ITSELF_OFF)) as (pid, terminal):
        read_until(terminal, b"up")
        os.write(terminal, b"\x01p")
        _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0


def test_reader_that_goes_away_ends_the_run(kernel: MakeKernel) -> None:
    endless = bare.say("x") + b"\xeb" + bytes([0x100 - 2 - len(bare.say("x"))])
    with started("--kernel", kernel(endless)) as process:
        read_until(output_of(process), b"x")
        assert process.stdout is not None
        process.stdout.close()
        process.wait(DEADLINE)
        assert process.stderr is not None
        errors = process.stderr.read()

    assert process.returncode == 130
    assert errors == b"vmm: nobody reads the console output any more: Broken pipe\n"


def test_full_disk_under_the_console_output_is_the_hosts_failure(kernel: MakeKernel) -> None:
    endless = bare.say("x") + b"\xeb" + bytes([0x100 - 2 - len(bare.say("x"))])
    done = vmm("run", "--no-rng", "--console-to", "/dev/full", "--kernel", kernel(endless))

    assert done.returncode == 125
    first, *_ = done.stderr.splitlines()
    assert first == b"vmm: console output: /dev/full: No space left on device"


def test_console_output_to_no_name_is_refused(kernel: MakeKernel) -> None:
    done = vmm("run", "--no-rng", "--console-to", "", "--kernel", kernel(b""))

    assert done.returncode == 2
    assert done.stderr == b"vmm: --console-to : No such file or directory\n"


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e300"])
def test_timeout_that_no_clock_keeps_is_refused_for_a_restored_guest_too(seconds: str) -> None:
    done = vmm("run", f"--timeout={seconds}", "--restore", "/nonexistent")

    assert done.returncode == 2
    assert re.fullmatch(rb"vmm: --timeout \S+: must be above 0 .* seconds\n", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernel", "/nonexistent"], r"/nonexistent: .*[Nn]o such file"),
        (["--kernel", "/etc"], r"/etc: is a folder without a kernel"),
        (["--kernel", "/bin/sh"], r"/bin/sh"),
        (["--kernel", "/etc/passwd"], r"not an x86 kernel"),
        (["--kernel", "KERNEL", "--initrd", "/nonexistent"], r"/nonexistent"),
        (["--kernel", "KERNEL", "--disk", "/nonexistent"], r"/nonexistent"),
        (["--kernel", "KERNEL", "--disk", "/etc"], r"/etc"),
        (["--kernel", "KERNEL", "--disk", "x,weird=1"], r"weird=1"),
        (["--kernel", "KERNEL", "--disk", "x,transport=isa"], r"disk x: .*must be mmio or pci"),
        (["--kernel", "KERNEL", "--rng-transport", "isa"], r"choose from"),
        (["--kernel", "KERNEL", "--memory", "lots"], r"'lots'.*128M"),
        (["--kernel", "KERNEL", "--memory", "1K"], r"4M to 255G"),
        (["--kernel", "KERNEL", "--memory", "999999T"], r"4M to 255G"),
        (["--kernel", "KERNEL", "--cpus", "0"], r"1 to 254"),
        (["--kernel", "KERNEL", "--cpus", "many"], r"'many': must be N"),
        (["--kernel", "KERNEL", "--timeout", "-1"], r"above 0"),
        (["--kernel", "KERNEL", "--timeout", "inf"], r"at most 1e\+07"),
        (["--kernel", "KERNEL", "--timeout", "nan"], r"above 0"),
        (["--kernel", "KERNEL", *["--disk", "/dev/zero,ro"] * 20], r"/dev/zero"),
        (["--kernel", "KERNEL", "--cmdline", "a\nb"], r"character '\\n'"),
        (["--kernel", "KERNEL", "--frobnicate"], r"unrecognized arguments"),
        (["--kernel", "KERNEL", "--boot", "bios"], r"choose from"),
        (["--kernel", "KERNEL", "--engine", "steam"], r"choose from"),
        (["--kernel", "KERNEL", "--io-threads", "many"], r"choose from"),
        (["--kernel", "KERNEL", "--poll", "1001"], r"0 to 1000"),
        (["--kernel", "KERNEL", "--cmdline", "x" * 4000], r"command line.*2047"),
        (["--kernel", "KERNEL", "--memory", "4M"], r"KERNEL|memory|RAM"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    kernel: MakeKernel, arguments: list[str], message: str
) -> None:
    path = kernel(b"")
    done = vmm("run", *(path if argument == "KERNEL" else argument for argument in arguments))

    assert done.returncode == 2
    last = done.stderr.decode().splitlines()[-1]
    assert re.search(message.replace("KERNEL", path), last), last
    assert b"Traceback" not in done.stderr


def test_more_devices_than_there_are_interrupts_are_refused(
    kernel: MakeKernel, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512))
    done = vmm("run", "--kernel", kernel(b""), *["--disk", f"{disk},ro"] * 20)

    assert done.returncode == 2
    assert b"at most 19" in done.stderr


def test_odd_disk_is_used_to_its_last_whole_sector_with_a_warning(
    kernel: MakeKernel, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1000))
    code = bare.load32(0xC000_1100) + bare.say_eax() + bare.out8(0xF4, 0)
    done = vmm("run", "--kernel", kernel(code), "--disk", str(disk))

    assert (done.returncode, done.stdout) == (0, b"\x01\x00\x00\x00")
    assert b"WARNING" in done.stderr
    assert b"the last 488 bytes" in done.stderr


def test_empty_disk_is_refused(kernel: MakeKernel, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"")
    done = vmm("run", "--kernel", kernel(b""), "--disk", str(disk))

    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1


def test_disk_that_another_machine_writes_is_refused(kernel: MakeKernel, tmp_path: Path) -> None:
    disk, path = tmp_path / "disk", kernel(bare.say("up\n"))
    disk.write_bytes(bytes(4096))
    with started("--kernel", path, "--disk", str(disk)) as process:
        read_until(output_of(process), b"up\n")
        second = vmm("run", "--kernel", path, "--disk", str(disk))

    assert second.returncode == 2
    assert str(disk).encode() in second.stderr


def test_doctor_says_that_this_host_can_run_guests() -> None:
    done = vmm("doctor")

    assert done.returncode == 0
    assert done.stdout.endswith(b"this host can run guests\n")
    assert re.search(rb"^rings: +served by the (native|python) engine$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
def test_closed_standard_streams_change_nothing_else(
    kernel: MakeKernel, tmp_path: Path, closed: str
) -> None:
    disk, path = tmp_path / "disk", kernel(bare.say("hello\n") + bare.out8(0xF4, 7))
    disk.write_bytes(bytes(65536))
    script = 'exec "$@" ' + " ".join(f"{descriptor}>&-" for descriptor in closed)
    command = [sys.executable, "-m", "vmm", "run", "--kernel", path, "--disk", str(disk)]
    done = subprocess.run(
        ["sh", "-c", script, "sh", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE,
    )

    assert done.returncode == 7
    assert done.stdout == (b"" if "1" in closed else b"hello\n")
    assert done.stderr == (b"" if "2" in closed else b"vmm: the guest reported status 7\n")
    assert disk.read_bytes() == bytes(65536)


def test_version_is_that_of_the_package() -> None:
    done = vmm("--version")

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == f"vmm {importlib.metadata.version('pyvmm')}\n".encode()


def test_output_that_nobody_reads_ends_a_command_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "vmm", "doctor"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=DEADLINE)
    os.close(writer)

    assert (done.returncode, done.stderr) == (130, b"")


def test_initramfs_is_made_from_the_command_line(tmp_path: Path) -> None:
    output, extra = tmp_path / "initramfs.cpio", tmp_path / "extra"
    extra.write_text("some content")
    done = vmm("image", "initramfs", str(output), "--file", f"{extra}:/etc/extra")

    assert done.returncode == 0
    assert b"etc/extra\0" in output.read_bytes()
    assert b"some content" in output.read_bytes()


def test_removing_an_image_that_is_not_there_is_refused() -> None:
    done = vmm("image", "remove", "kernel-nonexistent")

    assert done.returncode == 2
    assert b"vmm image list" in done.stderr


def test_initrd_too_big_for_the_memory_is_refused(kernel: MakeKernel, tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    with open(initrd, "wb") as file:
        file.truncate(64 << 20)
    done = vmm("run", "--kernel", kernel(b""), "--memory", "32M", "--initrd", str(initrd))

    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1


def test_terminal_is_raw_while_the_guest_runs_and_restored_after(kernel: MakeKernel) -> None:
    with started_on_terminal("--kernel", kernel(bare.say("up\n"))) as (pid, terminal):
        before = termios.tcgetattr(terminal)
        seen = read_until(terminal, b"up")
        during = termios.tcgetattr(terminal)
        os.write(terminal, b"\x01x")
        seen += read_until(terminal, b"ended by Ctrl-A x")
        _, status = os.waitpid(pid, 0)
        after = termios.tcgetattr(terminal)

    assert b"Ctrl-A x" in seen
    assert before[3] & termios.ICANON
    assert not during[3] & termios.ICANON
    assert after == before
    assert os.waitstatus_to_exitcode(status) == 130


def test_terminal_that_goes_away_ends_the_run(kernel: MakeKernel) -> None:
    with started_on_terminal("--kernel", kernel(bare.say("up\n"))) as (pid, terminal):
        read_until(terminal, b"up")
        os.dup2(os.open(os.devnull, os.O_RDONLY), terminal)
        _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 130


def test_guest_cannot_forge_the_report_on_its_end(kernel: MakeKernel) -> None:
    forged = "\x1b[2K\rvmm: the guest powered off\n"

    done = vmm("run", "--no-rng", "--kernel", kernel(bare.say(forged) + bare.HALT_FOR_EVER))

    assert done.returncode == 126
    assert b"\x1b" not in done.stderr
    assert rb"vmm:     \x1b[2K" in done.stderr


def test_filtered_console_passes_text_and_colours_only(kernel: MakeKernel) -> None:
    code = bare.say("\x1b[2J\x1b[32mgreen\x1b]0;title\x07\n") + bare.out8(0xF4, 0)

    done = vmm("run", "--no-rng", "--console-filter", "--kernel", kernel(code))

    assert done.stdout == b"\x1b[32mgreen\n\x1b[0m"


def test_device_of_a_file_is_in_the_machine(kernel: MakeKernel, tmp_path: Path) -> None:
    (tmp_path / "dice.py").write_text(DICE)
    device = f"{tmp_path}/dice.py:Dice,sides=8"

    done = vmm("run", "--device", device, "--stats", "--kernel", kernel(bare.out8(0xF4, 0)))

    assert done.returncode == 0
    assert b"vmm: dice0: 0 kicks, 0 completions" in done.stderr


def test_device_of_a_file_that_is_wrong_is_one_line(kernel: MakeKernel, tmp_path: Path) -> None:
    (tmp_path / "dice.py").write_text(f"{DICE}\n1 / 0\n")

    done = vmm("run", "--device", f"{tmp_path}/dice.py:Dice", "--kernel", kernel(b""))

    assert done.returncode == 2
    expected = f"vmm: {tmp_path}/dice.py:14: ZeroDivisionError: division by zero\n"
    assert done.stderr == expected.encode()


def test_saved_file_of_a_device_is_reloaded(kernel: MakeKernel, tmp_path: Path) -> None:
    file = tmp_path / "dice.py"
    file.write_text(DICE)
    device = f"{file}:Dice,sides=8"
    options = ("--device", device, "--reload", "--sandbox=off")  # whatever PYVMM_SANDBOX says
    with started(*options, "--kernel", kernel(bare.say("up\n"))) as process:
        assert process.stderr is not None
        read_until(output_of(process), b"up\n")
        file.write_text(DICE + "def x(")
        wrong = read_until(process.stderr.fileno(), b"never closed\n")
        file.write_text(DICE + "# better")
        right = read_until(process.stderr.fileno(), b" s)\n")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE)

    stays = f"vmm: dice0: stays as it was: {file}:13: SyntaxError: '(' was never closed\n"
    assert wrong.endswith(stays.encode())
    assert right.startswith(f"vmm: dice0: is what {file} has now, ".encode())
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--reload"], b"vmm: --reload: it is for --device, which is not given\n"),
        (
            ["--reload", "--device", "d.py:D", "--sandbox", "auto"],
            b"vmm: --reload: a machine in a sandbox (auto) opens no file; it needs --sandbox=off\n",
        ),
        (
            ["--reload", "--device", "d.py:D", "--jail"],
            b"vmm: --reload: in a jail there are no files; take --jail away\n",
        ),
    ],
)
def test_reload_where_nothing_can_be_loaded_is_refused(options: list[str], why: bytes) -> None:
    done = vmm("run", *options)

    assert (done.returncode, done.stderr) == (2, why)
