"""Input to the guest: nothing is lost, and nothing ends but the input."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from virtio.errors import HostError
from vmm.console.escape import EscapeAction
from vmm.console.input import ConsoleInput
from vmm.host.loop import EventLoop

DEADLINE_SECONDS = 20


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


def test_escape_key_is_heard_behind_what_the_guest_does_not_take(
    loop: EventLoop, pipe: tuple[int, int]
) -> None:
    guest = Guest(loop, wanted=10_000_000, room=0)
    ConsoleInput(loop, pipe[0], guest.receive, guest.act).start()

    def type_all() -> None:
        os.write(pipe[1], b"a" * 60_000)
        os.write(pipe[1], b"b" * 60_000)
        os.write(pipe[1], b"\x01x")

    thread = threading.Thread(target=type_all)
    thread.start()
    loop.run()
    thread.join()

    assert guest.actions == [EscapeAction.QUIT]


def test_end_of_the_input_is_told_when_the_guest_has_all_of_it(
    loop: EventLoop, tmp_path: Path
) -> None:
    guest = Guest(loop, wanted=100, room=3)
    taken: list[bytes] = []
    (tmp_path / "input").write_bytes(b"hello")
    fd = os.open(tmp_path / "input", os.O_RDONLY)

    def delivered() -> None:
        taken.append(bytes(guest.received))
        loop.stop()

    source = ConsoleInput(loop, fd, guest.receive, on_delivered=delivered)
    source.start()

    def make_room() -> None:
        guest.room = 100
        source.on_space()

    after_rounds(loop, 5, make_room)
    loop.run()
    os.close(fd)

    assert taken == [b"hello"]


def test_terminal_of_others_is_not_read_until_it_is_ours_again(
    loop: EventLoop, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    foreground = [False]
    regained: list[bytes] = []
    guest = Guest(loop, wanted=5)
    monkeypatch.setattr("vmm.console.input.is_in_background", lambda fd: not foreground[0])
    monkeypatch.setattr("vmm.console.input._FOREGROUND_STEP_SECONDS", 0.01)
    os.write(pipe[1], b"hello")

    def look() -> None:
        regained.append(bytes(guest.received))

    ConsoleInput(loop, pipe[0], guest.receive, on_foreground=look).start()
    loop.call_later(0.05, lambda: foreground.__setitem__(0, True))
    loop.run()

    assert regained == [b""]
    assert bytes(guest.received) == b"hello"


@pytest.mark.parametrize("again", [False, True])
def test_terminal_that_became_ours_unseen_is_taken_at_the_next_look(
    loop: EventLoop, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    taken: list[str] = []
    guest = Guest(loop, wanted=5)
    monkeypatch.setattr("vmm.console.input.is_in_background", lambda fd: False)
    source = ConsoleInput(loop, pipe[0], guest.receive, on_foreground=lambda: taken.append("taken"))
    source.start()
    if again:  # as after SIGCONT
        loop.call_soon_threadsafe(source.look)
    loop.call_soon_threadsafe(lambda: os.write(pipe[1], b"hello"))
    loop.run()

    assert taken == ["taken"] * (1 + again)
    assert bytes(guest.received) == b"hello"


def test_terminal_that_others_take_is_not_read_any_more(
    loop: EventLoop, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    foreground = [True]
    guest = Guest(loop, wanted=100)
    monkeypatch.setattr("vmm.console.input.is_in_background", lambda fd: not foreground[0])

    def take() -> None:
        foreground[0] = False
        os.write(pipe[1], b"theirs")

    ConsoleInput(loop, pipe[0], guest.receive).start()
    after_rounds(loop, 5, take)
    after_rounds(loop, 20, loop.stop)
    loop.run()

    assert bytes(guest.received) == b""


def test_what_a_user_types_beyond_the_limit_is_dropped(
    loop: EventLoop, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmm.console.input.USER_LIMIT_BYTES", 10)
    guest = Guest(loop, wanted=100, room=0)

    def make_space(action: EscapeAction) -> None:
        guest.room = 100
        source.on_space()
        after_rounds(loop, 5, loop.stop)

    source = ConsoleInput(loop, pipe[0], guest.receive, make_space)
    source.start()
    os.write(pipe[1], b"0123456789abc\x01h")
    loop.run()

    assert bytes(guest.received) == b"0123456789"


def test_end_of_a_terminal_is_told(loop: EventLoop) -> None:
    ended: list[str] = []
    reading, writing = os.pipe()
    os.close(writing)

    source = ConsoleInput(loop, reading, len, on_end=lambda: ended.append("once"))
    source.start()
    after_rounds(loop, 10, loop.stop)
    loop.run()
    os.close(reading)

    assert ended == ["once"]
