"""Runs of marks in a table with a byte for each block or page: 1 where it is marked, else 0."""

Run = tuple[int, int]
"""Places that follow each other: the first one, and how many."""


def runs(table: bytes | bytearray) -> list[Run]:
    """Return the runs of marked places.

    >>> runs(bytes([0, 0, 1, 1, 0, 1]))
    [(2, 2), (5, 1)]
    """
    found: list[Run] = []
    start = table.find(1)
    while start >= 0:
        end = table.find(0, start)
        end = len(table) if end < 0 else end
        found.append((start, end - start))
        start = table.find(1, end)
    return found
