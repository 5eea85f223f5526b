"""The escape key is taken out of what a user types."""

import pytest

from vmm.console.escape import EscapeAction, EscapeFilter


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
        (b"a\x01qb", b"ab", None),
        (b"a\x01zb", b"ab", EscapeAction.SUSPEND),
        (b"a\x01pb", b"ab", EscapeAction.POWER_BUTTON),
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
