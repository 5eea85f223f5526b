"""Scatter lists: data in several pieces of memory, as views that nobody copies."""

from collections.abc import Sequence


def cut(
    views: Sequence[memoryview], length: int
) -> tuple[Sequence[memoryview], Sequence[memoryview]]:
    """Return the first ``length`` bytes of a scatter list, and the rest, as two lists.

    A list that is too short is all in the first one.

    >>> first, rest = cut([memoryview(b"head"), memoryview(b"data")], 6)
    >>> [bytes(view) for view in first], [bytes(view) for view in rest]
    ([b'head', b'da'], [b'ta'])
    """
    for index, view in enumerate(views):
        if not length:
            return views[:index], views[index:]
        if len(view) > length:
            return [*views[:index], view[:length]], [view[length:], *views[index + 1 :]]
        length -= len(view)
    return views, []
