"""Options of a command that are plain enough to be read without ``argparse``.

That module takes 4 ms: itself, ``gettext``, ``locale`` and the parsers that it builds. Options are
declared once, for either reader; what this one does not know (help, mistakes, an abbreviation,
several letters behind one dash, options behind arguments) the other one reads from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Final

_CONSTANT: Final = {"store_true": True, "store_false": False}


class _NotPlainError(Exception):
    """Words that are for ``argparse``."""


class QuickOptions:
    """Takes the declarations that ``ArgumentParser.add_argument`` takes, and reads plain words.

    >>> options = QuickOptions()
    >>> options.add_argument("--cpus", type=int, default=1)
    >>> options.add_argument("--stats", action="store_true")
    >>> vars(options.parse(["--cpus", "2"]))
    {'cpus': 2, 'stats': False}
    >>> options.parse(["--cpus", "two"]) is None
    True
    """

    def __init__(self) -> None:
        self._options: dict[str, _Option] = {}
        self._rest: str | None = None
        self._defaults: dict[str, Any] = {}

    def add_argument(self, *names: str, **how: Any) -> None:
        """Declare an option, or the arguments after all options."""
        if not names[0].startswith("-"):
            assert how["nargs"] == "*"
            self._rest = names[0]
            self._defaults[names[0]] = []
            return
        option = _Option(names, **how)
        self._options |= dict.fromkeys(names, option)
        self._defaults.setdefault(option.dest, option.default)

    def parse(self, words: Sequence[str]) -> Any:
        """Return an object with a value for each option, or None for what is not plain."""
        found = dict(self._defaults)
        try:
            rest = self._read_options(list(words), found)
        except _NotPlainError:
            return None
        if rest and self._rest is None:
            return None
        if self._rest is not None:
            found[self._rest] = rest
        return SimpleNamespace(**found)

    def _read_options(self, words: list[str], found: dict[str, Any]) -> list[str]:
        """Take the options off ``words`` into ``found``; return the arguments behind them."""
        while words and words[0].startswith("-"):
            name, equals, text = words.pop(0).partition("=")
            if name == "--" and not equals:
                return words
            if name not in self._options or (equals and not name.startswith("--")):
                raise _NotPlainError
            option = self._options[name]
            if option.takes_value:
                if not equals:
                    text = _value(words)
                found[option.dest] = option.with_text(found[option.dest], text)
            elif equals:
                raise _NotPlainError
            else:
                found[option.dest] = option.without_text(found[option.dest])
        if any(word.startswith("-") for word in words):
            raise _NotPlainError
        return words


def _value(words: list[str]) -> str:
    if not words or words[0].startswith("-"):
        raise _NotPlainError
    return words.pop(0)


class _Option:
    """One option, of the kinds that our commands have."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        action: str = "store",
        type: Callable[[str], Any] = str,
        choices: Sequence[str] | None = None,
        default: Any = None,
        dest: str = "",
        metavar: str = "",
        help: str = "",
    ) -> None:
        long = next(name for name in names if name.startswith("--"))
        self.dest = dest or long.removeprefix("--").replace("-", "_")
        self.takes_value = action in ("store", "append")
        self.default = not _CONSTANT[action] if action in _CONSTANT and default is None else default
        self._action = action
        self._type = type
        self._choices = choices

    def with_text(self, before: Any, text: str) -> Any:
        """Return the value of this option with one more text."""
        try:
            value = self._type(text)
        except (TypeError, ValueError):
            raise _NotPlainError from None
        if self._choices is not None and value not in self._choices:
            raise _NotPlainError
        return [*before, value] if self._action == "append" else value

    def without_text(self, before: Any) -> Any:
        """Return the value of this option, given once more."""
        return before + 1 if self._action == "count" else _CONSTANT[self._action]
