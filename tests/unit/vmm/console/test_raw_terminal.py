"""Raw mode on a pseudo-terminal, and back whatever happens."""

import os
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from virtio.errors import HostError
from vmm.console.raw_terminal import RawTerminal

DEADLINE_SECONDS = 20

# Runs in a process of its own, as signals end or stop it: raw mode on standard input, "r" on
# standard output once there, and again for every byte that comes on the descriptor given.
CHILD = """
import os, signal, sys
from vmm.console.raw_terminal import RawTerminal

def report():
    os.write(1, b"r")

if sys.argv[2] == "handler":
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(77))
if sys.argv[2] == "ignore":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
with RawTerminal(0):
    report()
    while os.read(int(sys.argv[1]), 1):
        report()
"""


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: the end of whoever looks at it, and the end of the program in it."""
    ends = os.openpty()
    yield ends
    for fd in ends:
        os.close(fd)


def is_raw(fd: int) -> bool:
    local_flags: int = termios.tcgetattr(fd)[3]
    return not local_flags & (termios.ICANON | termios.ECHO | termios.ISIG)


def modes(fd: int) -> list[object]:
    return list(termios.tcgetattr(fd))


def test_terminal_is_raw_inside_and_as_before_outside(terminal: tuple[int, int]) -> None:
    before = modes(terminal[1])

    with RawTerminal(terminal[1]):
        inside = is_raw(terminal[1])

    assert inside
    assert modes(terminal[1]) == before


def test_keys_that_a_terminal_would_act_on_reach_the_program(terminal: tuple[int, int]) -> None:
    with RawTerminal(terminal[1]):
        os.write(terminal[0], b"\x03\x1a\x11\r")

        assert os.read(terminal[1], 10) == b"\x03\x1a\x11\r"


def test_messages_of_the_host_still_start_at_the_left_edge(terminal: tuple[int, int]) -> None:
    with RawTerminal(terminal[1]):
        os.write(terminal[1], b"message\n")

        assert os.read(terminal[0], 20) == b"message\r\n"


def test_terminal_is_restored_after_an_exception(terminal: tuple[int, int]) -> None:
    before = modes(terminal[1])

    with pytest.raises(KeyboardInterrupt), RawTerminal(terminal[1]):
        raise KeyboardInterrupt

    assert modes(terminal[1]) == before


def test_signal_handlers_are_those_from_before_afterwards(terminal: tuple[int, int]) -> None:
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGCONT)
    before = [signal.getsignal(number) for number in numbers]

    with RawTerminal(terminal[1]):
        inside = [signal.getsignal(number) for number in numbers]

    assert [signal.getsignal(number) for number in numbers] == before
    assert all(new is not old for new, old in zip(inside, before, strict=True))


def test_what_is_not_a_terminal_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)

    with open("/dev/null", "rb") as null, RawTerminal(null.fileno()):
        assert signal.getsignal(signal.SIGTERM) is before


def test_terminal_that_hung_up_meanwhile_is_no_error() -> None:
    controller, program = os.openpty()

    with RawTerminal(program):
        os.close(controller)

    os.close(program)


def test_process_in_the_background_leaves_the_terminal_alone(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = modes(terminal[1])
    monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp() + 1)

    with RawTerminal(terminal[1]):
        assert modes(terminal[1]) == before


def test_terminal_that_cannot_be_changed_is_a_host_error_and_leaves_no_handlers(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, when: int, attributes: list[object]) -> None:
        raise termios.error(5, "Input/output error")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(termios, "tcsetattr", refuse)

    with pytest.raises(HostError, match="tcsetattr failed"), RawTerminal(terminal[1]):
        pass

    assert signal.getsignal(signal.SIGTERM) is before


@dataclass
class Child:
    """A process in raw mode on a pseudo-terminal."""

    terminal: int
    process: subprocess.Popen[bytes]
    commands: int

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait_until_it_runs(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.read(1) == b"r"

    def wait_until_it_stopped(self) -> int:
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        return os.WSTOPSIG(status)


def start_child(terminal: int, mode: str = "plain") -> Child:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(reading), mode],
        stdin=terminal,
        stdout=subprocess.PIPE,
        bufsize=0,
        pass_fds=[reading],
        cwd=Path(__file__).parents[4],
        start_new_session=True,
    )
    os.close(reading)
    child = Child(terminal, process, writing)
    child.wait_until_it_runs()
    return child


def end_child(child: Child) -> int:
    os.close(child.commands)
    assert child.process.stdout is not None
    child.process.stdout.close()
    return child.process.wait(DEADLINE_SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_terminal_is_restored_when_a_signal_ends_the_process(
    terminal: tuple[int, int], number: signal.Signals
) -> None:
    before = modes(terminal[1])
    child = start_child(terminal[1])
    inside = is_raw(terminal[1])

    child.signal(number)
    status = end_child(child)

    assert (inside, status) == (True, -number)
    assert modes(terminal[1]) == before


def test_handler_from_before_gets_its_turn_with_the_terminal_restored(
    terminal: tuple[int, int],
) -> None:
    before = modes(terminal[1])
    child = start_child(terminal[1], "handler")

    child.signal(signal.SIGTERM)
    status = end_child(child)

    assert status == 77
    assert modes(terminal[1]) == before


def test_signal_that_was_ignored_stays_ignored(terminal: tuple[int, int]) -> None:
    child = start_child(terminal[1], "ignore")

    child.signal(signal.SIGHUP)
    os.write(child.commands, b"?")
    child.wait_until_it_runs()
    raw = is_raw(terminal[1])

    assert (raw, end_child(child)) == (True, 0)


def test_terminal_is_restored_while_the_process_is_stopped_and_raw_again_after(
    terminal: tuple[int, int],
) -> None:
    before = modes(terminal[1])
    child = start_child(terminal[1])

    child.signal(signal.SIGTSTP)
    stop_signal = child.wait_until_it_stopped()
    stopped = modes(terminal[1])
    child.signal(signal.SIGCONT)
    os.write(child.commands, b"?")
    child.wait_until_it_runs()
    continued = is_raw(terminal[1])
    status = end_child(child)

    assert (stop_signal, stopped, continued, status) == (signal.SIGSTOP, before, True, 0)
    assert modes(terminal[1]) == before


def test_terminal_that_others_have_at_the_end_is_left_as_they_made_it(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawTerminal(terminal[1]):
        monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp() + 1)

    assert is_raw(terminal[1])  # as it was when they got it


def test_signal_that_the_main_thread_missed_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[tuple[int, int]] = []
    raw = RawTerminal()
    raw._may_stop = True

    def nudge(thread: int, number: int) -> None:
        sent.append((thread, number))
        raw._has_stopped = len(sent) == 3  # of which the first is the one to the group

    monkeypatch.setattr("os.kill", lambda group, number: sent.append((group, number)))
    monkeypatch.setattr("signal.pthread_kill", nudge)
    raw.suspend()

    main = threading.main_thread().ident
    assert sent == [(0, signal.SIGTSTP), (main, signal.SIGWINCH), (main, signal.SIGWINCH)]
