"""Text of a guest, made safe to show outside of its console.

A guest may print what a terminal obeys: colours that hide, a cursor that goes back over the status
line, text from right to left. In a message, a report or a log nothing of it may do more than be
read, and none of it may be long.
"""

from typing import Final

LONGEST_SHOWN: Final = 500


def printable(text: str, longest: int = LONGEST_SHOWN) -> str:
    """Return ``text`` with control characters escaped, cut after ``longest`` characters of it.

    Escaped are all that :meth:`str.isprintable` refuses except the tab: C0 and C1, line breaks,
    what changes the direction of text, what takes no room.

    >>> printable("done\\x1b[2K\\rvmm: fine")
    'done\\\\x1b[2K\\\\rvmm: fine'
    >>> printable("abcdef", longest=4)
    'abcd ... (6 characters)'
    """
    shown = text[:longest]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in shown)
    return shown if len(text) <= longest else f"{shown} ... ({len(text)} characters)"
