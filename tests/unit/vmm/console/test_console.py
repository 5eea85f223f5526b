"""The console log and the sink that carries it to the host."""

import fcntl
import os
import re
import threading
from collections.abc import Callable, Iterator

import pytest

from vmm.console.console import ConsoleClosedError, ConsoleLog, ConsoleTimeoutError, OutputSink

DEADLINE_SECONDS = 20


@pytest.fixture
def console() -> ConsoleLog:
    return ConsoleLog()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def read_exactly(fd: int, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        data += os.read(fd, count - len(data))
    return bytes(data)


def fill(fd: int) -> int:
    """Fill a pipe to the brim; returns how many bytes it holds then."""
    size = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    assert os.write(fd, bytes(size)) == size
    return size


def wait_on_thread(wait: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run ``wait`` on a thread; the list gets its result or its error."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(wait())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


@pytest.mark.parametrize(
    "pattern",
    ["login: ", b"login: ", re.compile("log[a-z]+: "), re.compile(rb"LOGIN: ", re.IGNORECASE)],
)
def test_wait_finds_what_was_already_printed(
    console: ConsoleLog, pattern: str | bytes | re.Pattern[str] | re.Pattern[bytes]
) -> None:
    console.write(b"Welcome\r\nguest login: ")

    assert console.wait_for(pattern, 0) == "login: "


def test_wait_takes_text_literally(console: ConsoleLog) -> None:
    console.write(b"a+b [ok]")

    assert console.wait_for("+b [ok]", 0) == "+b [ok]"


def test_wait_finds_what_comes_byte_by_byte_from_another_thread(console: ConsoleLog) -> None:
    thread, outcome = wait_on_thread(lambda: console.wait_for("ready", DEADLINE_SECONDS))

    for value in b"getting ready\n":
        console.write(bytes((value,)))
    thread.join(DEADLINE_SECONDS)

    assert outcome == ["ready"]


def test_each_wait_goes_on_where_the_last_one_ended(console: ConsoleLog) -> None:
    console.write(b"# one\n# two\n")

    found = [console.wait_for(re.compile("# [a-z]+"), 0) for _ in range(2)]

    assert found == ["# one", "# two"]
    with pytest.raises(ConsoleTimeoutError):
        console.wait_for("# ", 0)


def test_timeout_says_what_was_missed_and_shows_the_last_lines(console: ConsoleLog) -> None:
    console.write(b"Booting\r\nVFS: Cannot open root device\r\n")

    with pytest.raises(TimeoutError) as caught:
        console.wait_for("login:", 0)

    assert str(caught.value) == (
        "console: 'login:' not seen within 0 s; the last lines were:\n"
        "    Booting\n"
        "    VFS: Cannot open root device"
    )


def test_timeout_says_so_when_the_guest_printed_nothing(console: ConsoleLog) -> None:
    with pytest.raises(ConsoleTimeoutError, match="the guest printed nothing"):
        console.wait_for("login:", 0)


def test_errors_do_not_pass_the_guests_control_characters_on(console: ConsoleLog) -> None:
    console.write(b"\x1b]0;owned\x07")

    with pytest.raises(ConsoleTimeoutError) as caught:
        console.wait_for("login:", 0)

    assert str(caught.value).endswith(r"\x1b]0;owned\x07")


def test_close_wakes_who_waits_with_the_reason(console: ConsoleLog) -> None:
    thread, outcome = wait_on_thread(lambda: console.wait_for("login:", DEADLINE_SECONDS))

    console.close("triple fault")
    thread.join(DEADLINE_SECONDS)

    assert [type(error) for error in outcome] == [ConsoleClosedError]
    assert str(outcome[0]) == "console: 'login:' not seen: triple fault; the guest printed nothing"


def test_wait_after_close_still_finds_what_was_printed(console: ConsoleLog) -> None:
    console.write(b"reboot: Power down")
    console.close()

    assert console.wait_for("Power down", 0) == "Power down"


def test_history_keeps_the_last_bytes_only() -> None:
    console = ConsoleLog(history_bytes=100)

    for number in range(1000):
        console.write(b"%09d\n" % number)

    assert console.history() == b"".join(b"%09d\n" % number for number in range(990, 1000))


def test_history_does_not_grow_past_twice_its_limit() -> None:
    console = ConsoleLog(history_bytes=100)

    sizes = set()
    for _ in range(1000):
        console.write(b"x" * 7)
        sizes.add(len(console._history))

    assert max(sizes) <= 200


def test_wait_looks_at_the_history_kept_and_follows_it_as_it_is_trimmed() -> None:
    console = ConsoleLog(history_bytes=100)
    console.write(b"early " + b"." * 1000 + b"first ")
    console.wait_for("first", 0)
    console.write(b"." * 1000 + b"second first ")

    assert console.wait_for(re.compile("first|second"), 0) == "second"
    with pytest.raises(ConsoleTimeoutError):
        console.wait_for("early", 0)


def test_last_lines_include_an_unfinished_one(console: ConsoleLog) -> None:
    console.write(b"one\r\ntwo\r\n# ")

    assert console.last_lines(2) == ["two", "# "]


def test_watcher_gets_each_line_once_complete_without_its_ending(console: ConsoleLog) -> None:
    lines: list[str] = []
    console.on_line(lines.append)

    for value in b"one\r\n\r\nKernel panic - not syncing: x\nunfinished":
        console.write(bytes((value,)))

    assert lines == ["one", "", "Kernel panic - not syncing: x"]


def test_watcher_gets_several_lines_of_one_write(console: ConsoleLog) -> None:
    lines: list[str] = []
    console.on_line(lines.append)

    console.write(b"one\ntwo\nthr")
    console.write(b"ee\n")

    assert lines == ["one", "two", "three"]


def test_line_without_an_end_comes_in_pieces_and_does_not_grow(console: ConsoleLog) -> None:
    lines: list[str] = []
    console.on_line(lines.append)

    for _ in range(10):
        console.write(b"x" * 1000)
    console.write(b"\n")

    assert [len(line) for line in lines] == [4096, 4096, 1808]


def test_line_that_is_not_utf8_is_shown_with_replacements(console: ConsoleLog) -> None:
    lines: list[str] = []
    console.on_line(lines.append)

    console.write(b"caf\xc3\xa9 \xff\n")

    assert lines == ["caf\u00e9 \ufffd"]


def test_every_sink_gets_everything_from_when_it_was_added(console: ConsoleLog) -> None:
    first, second = bytearray(), bytearray()
    console.add_sink(first.extend)
    console.write(b"ab")
    console.add_sink(second.extend)
    console.write(b"cd")

    assert (bytes(first), bytes(second)) == (b"abcd", b"cd")


def test_sink_that_fails_is_logged_once_and_dropped(
    console: ConsoleLog, caplog: pytest.LogCaptureFixture
) -> None:
    kept = bytearray()
    console.add_sink(lambda data: 1 // 0)
    console.add_sink(kept.extend)

    console.write(b"a")
    console.write(b"b")

    assert bytes(kept) == b"ab"
    assert caplog.text.count("ZeroDivisionError: ") == 1


def test_sink_may_look_at_the_console(console: ConsoleLog) -> None:
    seen: list[bytes] = []
    console.add_sink(lambda data: seen.append(console.history()))

    console.write(b"hello")

    assert seen == [b"hello"]


def test_output_reaches_the_descriptor_in_order(pipe: tuple[int, int]) -> None:
    with OutputSink(pipe[1]) as sink:
        for value in b"hello, world\n":
            sink.write(bytes((value,)))

        assert read_exactly(pipe[0], 13) == b"hello, world\n"


def test_output_larger_than_the_pipe_arrives_whole(pipe: tuple[int, int]) -> None:
    text = bytes(range(256)) * 2000
    with OutputSink(pipe[1]) as sink:
        sink.write(text)

        assert read_exactly(pipe[0], len(text)) == text


def test_flush_returns_when_everything_was_written(pipe: tuple[int, int]) -> None:
    with OutputSink(pipe[1]) as sink:
        sink.write(b"the last line\n")

        assert sink.flush(DEADLINE_SECONDS)

        os.set_blocking(pipe[0], False)
        assert os.read(pipe[0], 100) == b"the last line\n"


def test_close_writes_what_is_left(pipe: tuple[int, int]) -> None:
    sink = OutputSink(pipe[1])
    sink.write(b"reboot: Power down\n")

    sink.close()
    sink.write(b"too late")

    assert os.read(pipe[0], 100) == b"reboot: Power down\n"


def test_close_ends_the_thread(pipe: tuple[int, int]) -> None:
    before = threading.active_count()
    sink = OutputSink(pipe[1])

    sink.close()

    assert threading.active_count() == before


def test_writer_is_not_held_up_by_a_reader_that_does_not_read(pipe: tuple[int, int]) -> None:
    filled = fill(pipe[1])
    with OutputSink(pipe[1]) as sink:
        sink.write(b"x" * 1000)

        assert not sink.flush(0.01)

        read_exactly(pipe[0], filled)
        assert sink.flush(DEADLINE_SECONDS)


def test_full_buffer_keeps_the_newest_output_and_counts_the_rest(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    filled = fill(pipe[1])
    sink = OutputSink(pipe[1], "stdout", capacity=100)
    for number in range(1000):
        sink.write(b"%09d\n" % number)

    dropped = sink.dropped
    read_exactly(pipe[0], filled)
    sink.close()
    sink.close()
    arrived = read_exactly(pipe[0], 10_000 - dropped)

    assert arrived.endswith(b"".join(b"%09d\n" % number for number in range(990, 1000)))
    assert caplog.text.count(f"stdout: {dropped} bytes of output dropped") == 1


def test_close_gives_up_on_a_reader_that_never_reads(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    filled = fill(pipe[1])
    sink = OutputSink(pipe[1])
    sink.write(b"x" * 100_000)

    sink.close(timeout=0.05)
    read_exactly(pipe[0], filled)
    sink.close()

    assert 0 < sink.dropped <= 100_000
    assert "bytes of output dropped" in caplog.text


def test_closed_pipe_is_reported_once_and_swallows_the_rest() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    errors: list[OSError] = []
    with OutputSink(writing, on_gone=errors.append) as sink:
        sink.write(b"a")
        flushed = sink.flush(DEADLINE_SECONDS)
        sink.write(b"b")
    os.close(writing)

    assert flushed
    assert [type(error) for error in errors] == [BrokenPipeError]
    assert sink.dropped == 0


def test_vanished_terminal_is_reported() -> None:
    controller, terminal = os.openpty()
    os.close(controller)
    errors: list[OSError] = []
    with OutputSink(terminal, on_gone=errors.append) as sink:
        sink.write(b"a")
    os.close(terminal)

    assert [error.errno for error in errors] == [5]


def test_descriptor_stays_in_the_mode_it_was_in(pipe: tuple[int, int]) -> None:
    before = fcntl.fcntl(pipe[1], fcntl.F_GETFL)

    with OutputSink(pipe[1]) as sink:
        sink.write(b"x")
        sink.flush(DEADLINE_SECONDS)

    assert fcntl.fcntl(pipe[1], fcntl.F_GETFL) == before


def test_descriptor_that_somebody_made_non_blocking_works_too(pipe: tuple[int, int]) -> None:
    filled = fill(pipe[1])
    os.set_blocking(pipe[1], False)
    with OutputSink(pipe[1]) as sink:
        sink.write(b"hello")
        refused = not sink.flush(0.05)

        assert read_exactly(pipe[0], filled + 5)[filled:] == b"hello"

    assert refused
