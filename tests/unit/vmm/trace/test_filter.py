"""What a filter lets through, and what it says of a word that it does not know."""

import pytest

from tests.unit.vmm.trace.example import STORY
from virtio.errors import ConfigurationError
from vmm.trace.filter import Filter

DEVICES = ["block0", "entropy", "console"]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("block0 status", ["status"]),
        ("block0/0 read", ["read", "read"]),
        ("kick | interrupt", ["kick", "interrupt"]),
        ("taken", ["read", "read"]),
        ("vcpu-0 !block0", ["exit"]),
        ("QueueNotify", ["mmio"]),
    ],
)
def test_events_have_to_have_all_words(text: str, kinds: list[str]) -> None:
    assert [one.kind for one in Filter(text, DEVICES).of(STORY)] == kinds


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("blok0 status", "no event has the word 'blok0'; nearest are block0"),
        ("block0 statsu", "no event has the word 'statsu'; nearest are status"),
        ("!Kicks", "no event has the word 'Kicks'; nearest are kick"),
        ("block7/0", "no event has the word 'block7/0'; nearest are block0"),
    ],
)
def test_an_unknown_word_is_answered_by_the_nearest_known_ones(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        Filter(text, DEVICES)
    assert told in str(error.value)


@pytest.mark.parametrize("text", ["|", "kick |", " "])
def test_a_part_without_words_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="there is no word"):
        Filter(text)
