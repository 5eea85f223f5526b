"""Runs of marked places in a table."""

import pytest

from vmm.host.runs import runs


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (b"", []),
        (b"\0\0", []),
        (b"\1\1", [(0, 2)]),
        (b"\1\0\1", [(0, 1), (2, 1)]),
        (b"\0\1\1\0\0\1", [(1, 2), (5, 1)]),
    ],
)
def test_runs_are_found(table: bytes, expected: list[tuple[int, int]]) -> None:
    assert runs(table) == expected
