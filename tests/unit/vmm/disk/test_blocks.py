"""A set of blocks agrees with a set of Python's."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.disk.blocks import BlockSet

BLOCKS = 3 * 4096 + 100
places = st.integers(0, BLOCKS) | st.sampled_from([4095, 4096, 4097, 8191, 8192, 12288])


@given(st.lists(st.tuples(places, places), max_size=8), places, places)
def test_it_is_a_set(added: list[tuple[int, int]], one: int, other: int) -> None:
    blocks, model = BlockSet(BLOCKS * 4096 - 1), set[int]()
    for first, end in added:
        blocks.add(first, end)
        model |= set(range(first, end))

    runs = blocks.runs()
    members = [block for first, count in runs for block in range(first, first + count)]
    assert members == sorted(model)
    assert all(sum(before) < after[0] for before, after in pairwise(runs))
    assert BlockSet(BLOCKS * 4096, runs).runs() == runs
    start, stop = min(one, other), max(one, other)
    inside, end = blocks.stretch(start, stop)
    assert inside == (start in model) == (start in blocks)
    assert all((block in model) == inside for block in range(start, end))
    assert end == stop or (end in model) != inside


class Sneaky(bytearray):
    """A part to which another thread adds its first block while it is searched."""

    def find(self, *arguments: Any) -> int:
        found = super().find(*arguments)
        self[0] = 1
        return found


def test_a_block_that_comes_during_a_look_changes_nothing_about_the_others() -> None:
    blocks = BlockSet(1 << 24)
    blocks._chunks[0] = Sneaky(4096)

    assert blocks.stretch(0, 10) == (False, 10)


def test_a_stretch_is_a_block_at_least_also_over_two_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocks = BlockSet(1 << 26)
    blocks.add(4091, 4092)
    monkeypatch.setattr(BlockSet, "__contains__", lambda self, block: False)  # it comes after that

    assert blocks.stretch(4091, 5000) == (False, 5000)
