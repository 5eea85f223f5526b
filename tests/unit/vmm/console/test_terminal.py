"""The escape key, raw mode on a pseudo-terminal, and input to the guest."""

import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from virtio.errors import HostError
from vmm.console.terminal import ConsoleInput, EscapeAction, EscapeFilter, RawTerminal
from vmm.host.loop import EventLoop

DEADLINE_SECONDS = 20

# Runs in a process of its own, as signals end or stop it: raw mode on standard input, "r" on
# standard output once there, and again for every byte that comes on the descriptor given.
CHILD = """
import os, signal, sys
from vmm.console.terminal import RawTerminal

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


@pytest.mark.parametrize(
    ("typed", "for_guest", "action"),
    [
        (b"ls\r", b"ls\r", None),
        (b"", b"", None),
        (b"\x01x", b"", EscapeAction.QUIT),
        (b"ab\x01xcd", b"ab", EscapeAction.QUIT),
        (b"ab\x01hcd", b"abcd", EscapeAction.HELP),
        (b"\x01h\x01x", b"", EscapeAction.QUIT),
        (b"a\x01ab", b"a\x01b", None),
        (b"\x01\x01", b"\x01", None),
        (b"a\x01zb", b"ab", None),
        (b"\x03\x04\x1a\x1c", b"\x03\x04\x1a\x1c", None),
        (b"\xc3\xa9\x00", b"\xc3\xa9\x00", None),
    ],
)
def test_escape_key_is_taken_out_of_the_input(
    typed: bytes, for_guest: bytes, action: EscapeAction | None
) -> None:
    assert EscapeFilter().feed(typed) == (for_guest, action)


def test_escape_key_and_the_key_after_it_may_come_apart() -> None:
    keys = EscapeFilter()

    results = [keys.feed(key) for key in (b"a\x01", b"", b"x")]

    assert results == [(b"a", None), (b"", None), (b"", EscapeAction.QUIT)]


def test_keys_after_an_escape_sequence_are_ordinary_again() -> None:
    keys = EscapeFilter()
    keys.feed(b"\x01h")

    assert keys.feed(b"x") == (b"x", None)


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


def after_rounds(loop: EventLoop, count: int, callback: Callable[[], None]) -> None:
    """Call ``callback`` once the loop has looked at everything that is ready ``count`` times."""
    following: Callable[[], None] = callback
    for _ in range(count):
        following = partial(loop.call_soon_threadsafe, following)
    following()


@dataclass
class Guest:
    """Takes at most ``room`` bytes and stops the loop once it has ``wanted``."""

    loop: EventLoop
    wanted: int
    room: int = 1_000_000
    received: bytearray = field(default_factory=bytearray)
    actions: list[EscapeAction] = field(default_factory=list)

    def receive(self, data: bytes) -> int:
        accepted = data[: self.room]
        self.room -= len(accepted)
        self.received += accepted
        self.stop_when(len(self.received) >= self.wanted)
        return len(accepted)

    def act(self, action: EscapeAction) -> None:
        self.actions.append(action)
        self.loop.stop()

    def stop_when(self, condition: bool) -> None:
        if condition:
            self.loop.stop()


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    with EventLoop() as loop:
        loop.call_later(DEADLINE_SECONDS, loop.stop)
        yield loop


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_input_reaches_the_guest(loop: EventLoop, pipe: tuple[int, int]) -> None:
    guest = Guest(loop, wanted=5)
    os.write(pipe[1], b"hello")

    ConsoleInput(loop, pipe[0], guest.receive).start()
    loop.run()

    assert bytes(guest.received) == b"hello"


def test_escape_key_of_a_pipe_is_ordinary_input(loop: EventLoop, pipe: tuple[int, int]) -> None:
    guest = Guest(loop, wanted=3)
    os.write(pipe[1], b"a\x01x")

    ConsoleInput(loop, pipe[0], guest.receive).start()
    loop.run()

    assert bytes(guest.received) == b"a\x01x"


def test_escape_key_of_a_user_is_acted_on_after_what_was_typed_before_it(
    loop: EventLoop, pipe: tuple[int, int]
) -> None:
    guest = Guest(loop, wanted=100)
    os.write(pipe[1], b"ls\x01x")

    ConsoleInput(loop, pipe[0], guest.receive, guest.act).start()
    loop.run()

    assert (bytes(guest.received), guest.actions) == (b"ls", [EscapeAction.QUIT])


def test_escape_key_works_while_the_guest_takes_nothing(
    loop: EventLoop, pipe: tuple[int, int]
) -> None:
    guest = Guest(loop, wanted=100, room=0)
    os.write(pipe[1], b"typed ahead\x01x")

    ConsoleInput(loop, pipe[0], guest.receive, guest.act).start()
    loop.run()

    assert guest.actions == [EscapeAction.QUIT]


def test_what_the_guest_did_not_take_comes_when_it_has_space(
    loop: EventLoop, pipe: tuple[int, int]
) -> None:
    guest = Guest(loop, wanted=10, room=4)
    console_input = ConsoleInput(loop, pipe[0], guest.receive)

    def make_space() -> None:
        guest.room = 100
        console_input.on_space()

    os.write(pipe[1], b"0123456789")
    console_input.start()
    after_rounds(loop, 10, make_space)
    loop.run()

    assert bytes(guest.received) == b"0123456789"


def test_reading_stops_when_too_much_waits_and_goes_on_without_loss(
    loop: EventLoop, tmp_path: Path
) -> None:
    text = bytes(range(256)) * 1024
    (tmp_path / "input").write_bytes(text)
    guest = Guest(loop, wanted=len(text), room=0)
    read: list[int] = []
    with open(tmp_path / "input", "rb") as file:
        console_input = ConsoleInput(loop, file.fileno(), guest.receive)

        def make_space() -> None:
            read.append(os.lseek(file.fileno(), 0, os.SEEK_CUR))
            guest.room = len(text)
            console_input.on_space()

        console_input.start()
        after_rounds(loop, 100, make_space)
        loop.run()

    assert read == [64 * 1024]
    assert bytes(guest.received) == text


def test_end_of_the_input_is_not_an_error_and_is_read_once(loop: EventLoop) -> None:
    guest = Guest(loop, wanted=5)
    reading, writing = os.pipe()
    os.write(writing, b"bye")
    os.close(writing)

    ConsoleInput(loop, reading, guest.receive).start()
    after_rounds(loop, 10, loop.stop)
    loop.run()
    os.close(reading)

    assert bytes(guest.received) == b"bye"
    assert reading not in loop._watched.readers


def test_terminal_that_hangs_up_ends_the_input_only(loop: EventLoop) -> None:
    controller, program = os.openpty()
    guest = Guest(loop, wanted=5)

    ConsoleInput(loop, program, guest.receive).start()
    loop.call_soon_threadsafe(partial(os.close, controller))
    after_rounds(loop, 10, loop.stop)
    loop.run()
    os.close(program)

    assert bytes(guest.received) == b""


@pytest.mark.parametrize("room", [7, 1_000_000])
def test_input_from_a_file_reaches_the_guest_whole(
    loop: EventLoop, tmp_path: Path, room: int
) -> None:
    text = bytes(range(256)) * 1000
    (tmp_path / "input").write_bytes(text)
    guest = Guest(loop, wanted=len(text), room=room)
    with open(tmp_path / "input", "rb") as file:
        console_input = ConsoleInput(loop, file.fileno(), guest.receive)

        def make_space() -> None:
            guest.room = len(text)
            console_input.on_space()

        console_input.start()
        after_rounds(loop, 10, make_space)
        loop.run()

    assert bytes(guest.received) == text


def test_stopped_input_reads_no_more(loop: EventLoop, pipe: tuple[int, int]) -> None:
    guest = Guest(loop, wanted=1)
    console_input = ConsoleInput(loop, pipe[0], guest.receive)
    console_input.start()
    console_input.stop()
    os.write(pipe[1], b"x")

    after_rounds(loop, 10, loop.stop)
    loop.run()

    assert bytes(guest.received) == b""


def test_input_that_cannot_be_read_ends_the_input_only(loop: EventLoop, tmp_path: Path) -> None:
    guest = Guest(loop, wanted=1)
    directory = os.open(tmp_path, os.O_RDONLY)

    ConsoleInput(loop, directory, guest.receive).start()
    after_rounds(loop, 10, loop.stop)
    loop.run()
    os.close(directory)

    assert bytes(guest.received) == b""


def test_reader_that_was_called_in_vain_reads_on(loop: EventLoop, pipe: tuple[int, int]) -> None:
    guest = Guest(loop, wanted=1)
    os.set_blocking(pipe[0], False)
    console_input = ConsoleInput(loop, pipe[0], guest.receive)
    console_input.start()

    loop.call_soon_threadsafe(console_input._read)
    loop.call_soon_threadsafe(partial(os.write, pipe[1], b"x"))
    loop.run()

    assert bytes(guest.received) == b"x"


def test_descriptor_that_cannot_be_watched_is_an_error(loop: EventLoop) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    ConsoleInput(loop, reading, lambda data: len(data)).start()
    with pytest.raises(HostError, match="cannot watch descriptor"):
        loop.run()
    os.close(writing)
