"""Text of a guest outside of its console: nothing that a terminal obeys, and not much of it."""

import pytest

from vmm.console.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain caf\u00e9\t!", "plain caf\u00e9\t!"),
        ("\x1b[2K\rvmm: the guest powered off", "\\x1b[2K\\rvmm: the guest powered off"),
        ("one\nvmm: two", "one\\nvmm: two"),
        ("\x9b31m\x07\x7f", "\\x9b31m\\x07\\x7f"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("a\u2028b\u200b", "a\\u2028b\\u200b"),
    ],
)
def test_what_a_terminal_obeys_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_long_text_is_cut_before_it_is_escaped() -> None:
    assert printable("\x00" * 1_000_000, 3) == r"\x00\x00\x00 ... (1000000 characters)"
