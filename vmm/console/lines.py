"""Lines in the output of a guest, found as bytes.

A guest that writes 4 MiB of line breaks must not cost 4 million steps of Python: only lines that
somebody asked for become objects.
"""

from collections.abc import Iterator, Sequence
from typing import Final

LONGEST_LINE_BYTES: Final = 4096
LINES_PER_WORD: Final = 16


def cut_lines(data: bytes) -> tuple[bytes, bytes]:
    """Return the complete lines, and the rest; a piece of LONGEST_LINE_BYTES counts as a line.

    >>> cut_lines(b"one\\ntwo\\nth")
    (b'one\\ntwo\\n', b'th')
    """
    end = data.rfind(b"\n") + 1
    end += (len(data) - end) // LONGEST_LINE_BYTES * LONGEST_LINE_BYTES
    return data[:end], data[end:]


def lines_of(data: bytes) -> Iterator[bytes]:
    """Yield the lines without their endings; long ones in pieces of LONGEST_LINE_BYTES."""
    at = 0
    while at < len(data):
        line = _line_from(data, at)
        yield line
        at += len(line) + (data[at + len(line) : at + len(line) + 1] == b"\n")


def lines_with(data: bytes, words: Sequence[bytes]) -> list[bytes]:
    """Return the lines that hold one of the words, in order.

    Of each word the last LINES_PER_WORD occurrences count: the end of an output is what tells how
    a guest ended.

    >>> lines_with(b"one\\ntwo\\nthree\\n", [b"w", b"hr"])
    [b'two', b'three']
    """
    starts: set[int] = set()
    for word in words:
        at = len(data)
        for _ in range(LINES_PER_WORD):
            at = data.rfind(word, 0, at)
            if at < 0:
                break
            start = data.rfind(b"\n", 0, at) + 1
            starts.add(start + (at - start) // LONGEST_LINE_BYTES * LONGEST_LINE_BYTES)
            at = start
    return [_line_from(data, start) for start in sorted(starts)]


def _line_from(data: bytes, start: int) -> bytes:
    longest = start + LONGEST_LINE_BYTES
    end = data.find(b"\n", start, longest + 1)
    return data[start : end if end >= 0 else longest]
