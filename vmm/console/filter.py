"""The console of a guest that may not command the user's terminal: text, line breaks and colours.

A console is raw by nature: full-screen programs need every sequence of ECMA-48. But a terminal also
obeys some that answer into the user's shell, set its title, or hide what others print.
"""

import codecs
import re
import threading
from typing import Final

_RESET: Final = b"\x1b[0m"

# Bounded, so that a sequence without an end neither waits nor is searched for ever.
_SEQUENCE: Final = re.compile(
    r"(?P<colour>\x1b\[[0-9;:]{0,60}m)"
    r"|(?P<command>\x1b\[[0-?]{0,60}[ -/]{0,4}[@-~]"
    r"|\x1b[\]P^_X][^\x07\x1b\n]{0,200}(?:\x07|\x1b\\))"
    r"|(?P<end>\r\n)"
    r"|(?P<other>[^\t\n -~])"
)
_UNFINISHED: Final = re.compile(
    r"(?:\r|\x1b(?:\[[0-?]{0,60}[ -/]{0,4}|[\]P^_X][^\x07\x1b\n]{0,200}\x1b?)?)\Z"
)
_LONGEST_UNFINISHED: Final = 256


class ConsoleFilter:
    """Lets printable text, tabs, line breaks and colours (SGR) through; from any thread.

    Other sequences are dropped, other control characters escaped; a carriage return without a line
    feed becomes a line break, since it would let a guest write over a line.

    >>> ConsoleFilter().feed(b"\\x1b[31mred\\x1b[2J\\x07")
    b'\\x1b[31mred\\\\x07'
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._unfinished = ""
        self._coloured = False

    def feed(self, data: bytes, *, last: bool = False) -> bytes:
        """Return what may be shown of ``data``; a sequence that is not finished waits."""
        with self._lock:
            text = self._unfinished + self._decoder.decode(data, last)
            self._unfinished = ""
            near = max(0, len(text) - _LONGEST_UNFINISHED)
            if not last and (found := _UNFINISHED.search(text, near)):
                text, self._unfinished = text[: found.start()], found.group()
            return _SEQUENCE.sub(self._allowed, text).encode()

    def end(self) -> bytes:
        """Return what was kept back, and the end of all colours if there were any."""
        rest = self.feed(b"", last=True)
        return rest + _RESET if self._coloured else rest

    def _allowed(self, found: re.Match[str]) -> str:
        text = found.group()
        if found.lastgroup == "colour":
            self._coloured = True
            return text
        if found.lastgroup == "command":
            return ""
        if found.lastgroup == "end" or text.isprintable():
            return text
        return "\n" if text == "\r" else repr(text)[1:-1]
