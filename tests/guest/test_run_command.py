"""``vmm run --restore FOLDER -- COMMAND``, also when the agent in the guest stands still."""

import subprocess
import sys
from pathlib import Path

import pytest

from vmm import Machine, MachineConfig
from vmm.agent import Agent, AgentTimeoutError

pytestmark = pytest.mark.timeout(1200)

BOOT_DEADLINE = 900.0
# The end of a run that its time ends: far less than what the waits for an agent sum up to.
DEADLINE = 55.0


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two guests: the agent of ``ready`` serves, that of ``still`` is stopped."""
    folder = tmp_path_factory.mktemp("saved")
    with Machine(MachineConfig(agent="beside", console="virtio")) as machine:
        machine.boot()
        ready = machine.agent.wait_ready(BOOT_DEADLINE)
        (folder / "agent").write_text(str(ready.pid))
        with machine.snapshot() as snapshot:
            snapshot.save(folder / "ready")
        machine.agent.start(["kill", "-STOP", str(ready.pid)])
        with pytest.raises(AgentTimeoutError):
            ping_for_ever(machine.agent)
        with machine.snapshot() as snapshot:
            snapshot.save(folder / "still")
    return folder


def ping_for_ever(agent: Agent) -> None:
    while True:
        agent.ping(5)


def run(folder: Path, *command: str, timeout: int) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-m", "vmm", "run", "--restore", str(folder)]
    return subprocess.run(
        [*words, "--timeout", str(timeout), "--", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE + timeout,
    )


def test_status_of_the_command_is_that_of_the_run(saved: Path) -> None:
    done = run(saved / "ready", "sh", "-c", "echo out; exit 7", timeout=600)

    assert done.returncode == 7
    assert b"out\n" in done.stdout


def test_command_that_is_not_there_is_127(saved: Path) -> None:
    done = run(saved / "ready", "no-such-program", timeout=600)

    assert done.returncode == 127
    assert b"no-such-program" in done.stderr


def test_command_that_cannot_be_executed_is_126(saved: Path) -> None:
    done = run(saved / "ready", "/proc/version", timeout=600)

    assert done.returncode == 126
    assert b"cannot execute '/proc/version'" in done.stderr


def test_time_ends_a_run_whose_agent_is_stopped_by_the_command(saved: Path) -> None:
    stop = f"kill -STOP {(saved / 'agent').read_text()}; sleep 1000"

    done = run(saved / "ready", "sh", "-c", stop, timeout=5)

    assert done.returncode == 124
    assert b"vmm: the guest made no end within its time of 5 s" in done.stderr


def test_time_ends_a_run_whose_agent_stands_still_from_the_start(saved: Path) -> None:
    done = run(saved / "still", "true", timeout=5)

    assert done.returncode == 124
    assert b"vmm: the guest made no end within its time of 5 s" in done.stderr


def test_command_that_powers_the_guest_off_ends_the_run(saved: Path) -> None:
    done = run(saved / "ready", "poweroff", "-f", timeout=600)

    assert done.returncode == 0
    assert b"vmm: the guest powered off" in done.stderr
