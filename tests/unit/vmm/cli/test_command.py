"""A command of the guest's agent ends for the host when all of its output has its reader."""

import errno
from collections.abc import Callable
from typing import Any, cast

import pytest

from vmm.agent import AgentLostError, Output
from vmm.agent.errors import guest_error
from vmm.cli import command
from vmm.cli.command import GuestCommand
from vmm.cli.stream_writer import LAST_SECONDS
from vmm.machine import Machine


class Writer:
    """Takes output for a reader who has it after being waited for ``slow`` times."""

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self.error: OSError | None = None
        self.on_written: Callable[[int], object] = bool
        self.on_gone: Callable[[], object] = bool
        self.slow = 0
        self.taken: list[bytes] = []
        self.waits: list[float] = []

    def put(self, data: bytes) -> None:
        self.taken.append(data)

    def drain(self, timeout: float) -> bool:
        self.waits.append(timeout)
        return len(self.waits) > self.slow


class Guest:
    """A machine, its loop, its agent and the command there, which gives ``outputs``."""

    def __init__(self) -> None:
        self.loop = self.agent = self
        self.ending: object = None
        self.outputs: list[Output | Exception] = []
        self.end: int | Exception = 0
        self.told: list[tuple[str, Any]] = []

    def wait_ready(self, seconds: float) -> None:
        pass

    def start(self, words: list[str], *, stdin: bool) -> "Guest":
        return self

    def take(self) -> Output | None:
        if not self.outputs:
            return None
        output = self.outputs.pop(0)
        if isinstance(output, Exception):
            raise output
        return output

    def wait(self) -> int:
        if isinstance(self.end, Exception):
            raise self.end
        return self.end

    def taken(self, stream: str, count: int) -> None:
        self.told.append((stream, count))

    def close_output(self, stream: str) -> None:
        self.told.append((stream, "closed"))

    def on_space(self, call: object) -> None:
        pass

    def offer(self, data: bytes) -> int:
        return len(data)

    def close_stdin(self) -> None:
        pass

    def call_soon_threadsafe(self, call: object) -> None:
        pass


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    monkeypatch.setattr(command, "StreamWriter", Writer)
    monkeypatch.setattr(command, "_is_null", lambda fd: True)
    return Guest()


def command_of(guest: Guest) -> tuple[GuestCommand, Writer, Writer]:
    made = GuestCommand(cast(Machine, guest), ["x"], terminal=False)
    return made, cast(Writer, made._writers["stdout"]), cast(Writer, made._writers["stderr"])


def test_output_goes_to_its_stream_and_the_guest_hears_of_its_reader(guest: Guest) -> None:
    guest.outputs = [Output("stdout", b"out"), Output("stderr", b"err")]
    made, out, err = command_of(guest)
    made.run(None)

    out.on_written(3)
    err.on_gone()

    assert (out.taken, err.taken) == ([b"out"], [b"err"])
    assert guest.told == [("stdout", 3), ("stderr", "closed")]


@pytest.mark.parametrize("slow", ["stdout", "stderr"])
def test_run_goes_on_until_each_reader_has_all(guest: Guest, slow: str) -> None:
    made, out, err = command_of(guest)
    writer = out if slow == "stdout" else err
    writer.slow = 3

    made.run(None)

    assert len(writer.waits) == 4


def test_reader_is_not_waited_for_when_the_machine_has_ended(guest: Guest) -> None:
    guest.ending = "out of time"
    made, out, _ = command_of(guest)
    out.slow = 100

    made.run(None)

    assert len(out.waits) == 1


def test_what_came_before_the_end_of_the_guest_has_a_while_to_be_read(guest: Guest) -> None:
    guest.outputs = [Output("stdout", b"bye"), AgentLostError("agent: the machine has ended")]
    made, out, err = command_of(guest)

    with pytest.raises(AgentLostError):
        made.run(None)

    assert out.taken == [b"bye"]
    assert (out.waits, err.waits) == ([LAST_SECONDS], [LAST_SECONDS])


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (0, 0),
        (7, 7),
        (-9, 137),
        (guest_error(errno.ENOENT, "execute", "x"), 127),
        (guest_error(errno.EACCES, "execute", "x"), 126),
    ],
)
def test_status_is_that_of_a_shell(
    guest: Guest, end: int | Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    guest.end = end
    made, _, _ = command_of(guest)

    assert made.run(None) == made.status == status
    assert capsys.readouterr().err == (f"vmm: {end}\n" if isinstance(end, Exception) else "")


def test_output_that_the_host_cannot_write_is_a_failure(guest: Guest) -> None:
    made, out, _ = command_of(guest)
    out.error = OSError(errno.ENOSPC, "No space left on device")

    made.run(None)

    assert made.failure == "stdout: No space left on device"
