"""Scatter lists are cut where one asks, without a copy."""

import pytest

from virtio.scatter import cut


def views(*parts: bytes) -> list[memoryview]:
    return [memoryview(part) for part in parts]


@pytest.mark.parametrize(
    ("length", "first", "rest"),
    [
        (0, [], [b"ab", b"cd"]),
        (1, [b"a"], [b"b", b"cd"]),
        (2, [b"ab"], [b"cd"]),
        (3, [b"ab", b"c"], [b"d"]),
        (4, [b"ab", b"cd"], []),
        (9, [b"ab", b"cd"], []),
    ],
)
def test_list_is_cut_after_so_many_bytes(
    length: int, first: list[bytes], rest: list[bytes]
) -> None:
    got_first, got_rest = cut(views(b"ab", b"cd"), length)

    assert [bytes(view) for view in got_first] == first
    assert [bytes(view) for view in got_rest] == rest


def test_parts_are_the_same_memory() -> None:
    memory = bytearray(b"abcd")

    first, rest = cut([memoryview(memory)], 2)
    first[0][0] = ord("X")
    rest[0][0] = ord("Y")

    assert memory == b"XbYd"
