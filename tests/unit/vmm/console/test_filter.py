"""The filtered console: text, tabs, line breaks and colours, however the bytes are cut."""

import pytest

from vmm.console.filter import ConsoleFilter


def filtered(*pieces: bytes) -> bytes:
    console_filter = ConsoleFilter()
    return b"".join([*map(console_filter.feed, pieces), console_filter.end()])


CASES = [
    (b"text\tcaf\xc3\xa9\r\nnext\n", b"text\tcaf\xc3\xa9\r\nnext\n"),
    (b"\x1b[1;31mred\x1b[m", b"\x1b[1;31mred\x1b[m\x1b[0m"),
    (b"a\x1b[2J\x1b[6n\x1b[?1049hb", b"ab"),
    (b"a\x1b]0;owned\x07b\x1bP+q\x1b\\c", b"abc"),
    (b"1%\r2%\r\n", b"1%\n2%\r\n"),
    (b"\x07\x00\x1b7\xc2\x9b1m\xe2\x80\xae", b"\\x07\\x00\\x1b7\\x9b1m\\u202e"),
    (b"\xff", b"\xef\xbf\xbd"),
    (b"left at the end\x1b[", b"left at the end\\x1b["),
]


@pytest.mark.parametrize(("data", "shown"), CASES)
def test_only_text_and_colours_pass(data: bytes, shown: bytes) -> None:
    assert filtered(data) == shown


@pytest.mark.parametrize(("data", "shown"), CASES)
def test_bytes_that_come_one_by_one_give_the_same(data: bytes, shown: bytes) -> None:
    assert filtered(*(bytes((value,)) for value in data)) == shown


def test_sequence_without_an_end_does_not_hold_text_back() -> None:
    console_filter = ConsoleFilter()

    shown = console_filter.feed(b"\x1b]" + b"x" * 1000)

    assert shown == b"\\x1b]" + b"x" * 1000
