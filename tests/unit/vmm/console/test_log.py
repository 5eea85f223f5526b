"""The log of the console: what was printed, and who waits for it or watches it."""

import re
import threading
from collections.abc import Callable

import pytest

from vmm.console.log import ConsoleClosedError, ConsoleLog, ConsoleTimeoutError

DEADLINE_SECONDS = 20


@pytest.fixture
def console() -> ConsoleLog:
    return ConsoleLog()


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
    told = r"console: 'login:' not seen: triple fault \(waited [0-9.]+ s of 20 s\); the guest .*"
    assert re.fullmatch(told, str(outcome[0]))


def test_wait_after_close_still_finds_what_was_printed(console: ConsoleLog) -> None:
    console.write(b"reboot: Power down")
    console.close()

    assert console.wait_for("Power down", 0) == "Power down"


def test_history_keeps_the_last_bytes_only() -> None:
    console = ConsoleLog(history_bytes=100)

    for number in range(1000):
        console.write(b"%09d\n" % number)

    assert console.history() == b"".join(b"%09d\n" % number for number in range(990, 1000))


def test_output_since_a_position_is_what_came_after_it_and_is_kept() -> None:
    console = ConsoleLog(history_bytes=4)
    console.write(b"ab")
    position = console.position
    console.write(b"cd")
    recent = console.since(position)
    console.write(b"efghijkl")

    assert (recent, console.since(position), console.since(console.position)) == (
        b"cd",
        b"ijkl",
        b"",
    )


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


def test_last_lines_are_escaped_and_cut(console: ConsoleLog) -> None:
    console.write(b"\x1b[2K\xe2\x80\xaevmm\n" + b"x" * 2000)

    assert console.last_lines() == [r"\x1b[2K\u202evmm", "x" * 500 + " ... (2000 characters)"]


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


def test_lines_that_nobody_asked_for_are_not_made(
    console: ConsoleLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    monkeypatch.setattr("vmm.console.log._text", made.append)
    console.on_line(lambda line: None, containing=(b"reboot: ", b"panic"))

    console.write(b"\n" * 65536 + b"a panic\r\n" + b"\n" * 65536)

    assert made == [b"a panic"]


def test_watcher_of_words_gets_the_last_lines_with_each(console: ConsoleLog) -> None:
    lines: list[str] = []
    console.on_line(lines.append, containing=(b"one", b"two"))

    console.write(b"".join(b"one %d\n" % number for number in range(10_000)) + b"two\nthree\n")

    assert lines == [*(f"one {number}" for number in range(9984, 10_000)), "two"]


def test_watcher_of_words_gets_a_line_that_came_in_pieces(console: ConsoleLog) -> None:
    lines: list[str] = []
    console.on_line(lines.append, containing=(b"panic",))

    for value in b"one\na panic here\r\nthree\n":
        console.write(bytes((value,)))

    assert lines == ["a panic here"]


def test_watcher_of_words_gets_a_piece_of_a_line_that_is_too_long(console: ConsoleLog) -> None:
    lines: list[str] = []
    console.on_line(lines.append, containing=(b"panic",))

    console.write(b"x" * 10_000 + b"panic" + b"x" * 60_000 + b"\n")

    assert [len(line) for line in lines] == [4096]
    assert "panic" in lines[0]


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
