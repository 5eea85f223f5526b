"""``vmm shell`` as a user meets it, with guests that boot at once."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guest import bare_metal as bare
from tests.workflow.command import on_terminal

DEADLINE = 120.0
DICE = """
from virtio import Device, queue

class Dice(Device):
    device_id = 42

    @queue(size=8)
    def requestq(self, chain):
        return chain.write(b"one")
"""
DRIVE = """
from transport.testing import MmioDriver
from virtio.testing import SplitDriver
from pathlib import Path
import time

dice = Path("dice.py")
ring = SplitDriver(machine.hardware.ram, 8, base=16 << 20)

def driver():
    return MmioDriver(machine.hardware.transports[-1])

def ask():
    ring.add([], [3]); driver().notify(0)

def wait(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)

def answer():
    found = []
    wait(lambda: found.extend(ring.collect()) or found)
    return found[0].data.decode()

def fail():
    ask()
    wait(lambda: not [one for one in machine.threads if not one.paused])

def save(text):
    return dice.write_text(dice.read_text().replace('b"one"', text)) and None

driver().start(ring)
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Return a command that shells into a guest which does nothing for ever."""
    kernel = bare.write_kernel(tmp_path / "kernel", bare.say("up\n") + bare.SPIN)
    (tmp_path / "dice.py").write_text(DICE)
    words = ["shell", "--no-rng", "--kernel", str(kernel), "--device", "dice.py:Dice"]
    return [sys.executable, "-m", "vmm", *words]


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(command: list[str], tmp_path: Path) -> Run:
    def run(lines: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *options],
            input=lines,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            env={k: v for k, v in os.environ.items() if k != "PYVMM_SANDBOX"} | environment,
        )

    return run


def test_names_of_the_machine_are_at_hand(run: Run) -> None:
    done = run(
        'matched = console.wait_for("up", 60)\nlist(devices), guest, devices.dice0 is not None\n'
        "devices.nope\n%console\nmachine.config.cpus"
    )

    lines = done.stdout.splitlines()
    assert lines[0] == "Out[2]: (['dice0'], None, True)"
    assert "AttributeError: nope: there are dice0" in lines
    assert lines[-2:] == ["up", "Out[5]: 1"]


def test_lines_that_raise_are_shown_and_the_next_ones_run(run: Run) -> None:
    done = run("1 / 0\nfor i in range(2):\n    print(i)\n\n6 * 7\n")

    assert done.stdout.splitlines()[-3:] == ["0", "1", "Out[3]: 42"]
    assert (done.returncode, done.stderr) == (1, "vmm: the machine was stopped\n")


def test_lines_that_raise_nothing_end_with_the_guests_status(run: Run) -> None:
    done = run("print('hello')")

    assert (done.returncode, done.stdout) == (0, "hello\n")


def test_what_is_wrong_is_one_line(run: Run) -> None:
    done = run("%console ten\n%reload nope\nmachine.unplug('nope')\n")

    assert done.stdout.splitlines() == [
        "ConfigurationError: %console ten: must be a number of lines",
        "ConfigurationError: nope: is no device of a file; there are: dice0",
        "ConfigurationError: nope: no such device is plugged in, or not any more; there are: dice0",
    ]


def test_reload_of_what_is_not_there_raises(run: Run) -> None:
    assert run("%reload nope\n").returncode == 1


def test_device_that_failed_is_mended_and_the_machine_runs_again(run: Run) -> None:
    done = run(
        f"{DRIVE}\nask()\nanswer()\nsave('1 / 0')\n%reload\nfail()\nsave('')\n"
        "_ = dice.write_text(dice.read_text().replace('1 / 0', 'b\"two\"'))\n"
        "%reload\nanswer()\n[one.paused for one in machine.threads]\n"
    )

    lines = done.stdout.splitlines()
    assert "'one'" in lines[0]
    where = 'File "dice.py", line 9, in requestq'
    assert any(where in line for line in lines)
    assert any(line.startswith("in requestq, at <DescriptorChain") for line in lines)
    assert "with the chain at which it failed" in lines[-3]
    assert lines[-2].endswith("'two'")
    assert lines[-1].endswith("[False]")
    assert done.returncode == 0


def test_device_that_is_given_up_needs_a_reset(run: Run) -> None:
    done = run(
        f"{DRIVE}\nsave('1 / 0')\n%reload\nfail()\n%continue\nhex(driver().status)\n"
        "[one.paused for one in machine.threads]"
    )

    lines = done.stdout.splitlines()
    assert lines[-2].endswith("'0x4f'")
    assert lines[-1].endswith("[False]")


def test_machine_that_stands_still_ends_when_its_user_leaves(run: Run) -> None:
    done = run(f"{DRIVE}\nsave('1 / 0')\n%reload\nfail()\n")

    assert (done.returncode, done.stderr) == (0, "vmm: the machine was stopped\n")


def test_saved_file_is_reloaded_unasked_with_reload(run: Run) -> None:
    done = run(
        f"{DRIVE}\nold = devices.dice0\nsave('b\"two\"')\nwait(lambda: devices.dice0 is not old)\n"
        "ask()\nanswer()\n",
        "--reload",
    )

    assert done.stdout.splitlines()[-1].endswith("'two'")


def test_sigterm_ends_shell_and_guest(run: Run) -> None:
    done = run("import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM); time.sleep(60)\n")

    assert done.returncode == 130
    assert done.stderr == "vmm: interrupted by SIGTERM\n"


def test_without_ipython_one_line_says_what_to_install(run: Run, tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "IPython.py").write_text("raise ImportError\n")

    done = run("1", PYTHONPATH=str(tmp_path / "without"))

    assert done.returncode == 2
    assert done.stderr == "vmm: IPython is not installed: pip install 'pyvmm[shell]'\n"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--", "ls"], "shell: runs no command; at its prompt is guest.run([...])"),
        (["--sandbox", "auto"], "shell: what is typed may open any file: it needs --sandbox=off"),
        (["--jail"], "shell: what is typed may open any file: it needs --sandbox=off"),
        (["--on-reboot", "restart"], "shell: has one machine; take --on-reboot away"),
    ],
)
def test_options_that_leave_no_room_for_a_prompt_are_refused(
    run: Run, options: list[str], why: str
) -> None:
    done = run("1", *options)

    assert done.returncode == 2
    assert done.stderr.startswith(f"vmm: {why}")


def test_user_at_a_terminal_has_a_prompt_and_leaves_by_ctrl_d(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("PYVMM_SANDBOX", raising=False)
    monkeypatch.chdir(tmp_path)
    with on_terminal(*command) as terminal:
        assert b"The guest runs beside." in terminal.read_until(b"]: ")
        terminal.type(b"6 * machine.config.cpus * 7\r")
        terminal.read_until(b"42")
        terminal.read_until(b"]: ")
        terminal.type(b"\x04")
        terminal.read_until(b"vmm: the machine was stopped")
        assert terminal.wait() == 0


def test_exit_ends_lines_from_a_pipe(run: Run) -> None:
    done = run("exit()\nprint('not this')\n")

    assert (done.returncode, done.stdout) == (0, "")


def test_drivers_are_judged_from_the_first_question_on(run: Run) -> None:
    done = run("%explain\n%explain\n")

    lines = done.stdout.splitlines()
    assert lines[0] == "The drivers are judged from now on; %reload has one begin anew."
    assert lines[1].startswith("dice0: the driver does not exist: nobody set ACKNOWLEDGE")
    assert lines[2].startswith("  rule DRV-INI-03")
