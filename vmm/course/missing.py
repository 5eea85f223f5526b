"""What an exercise still lacks, and how a checker asks for its parts."""

from collections.abc import Callable
from typing import Any

Step = Callable[[str], None]
"""Called with each thing that was found right."""


class Missing(Exception):
    """The exercise is not solved yet; the message is one line that tells what is missing."""


def need(right: bool, hint: str) -> None:
    """Raise :class:`Missing` with a hint unless something is right."""
    if not right:
        raise Missing(hint)


def part(mine: Any, name: str, what: str) -> Any:
    """Return what the reader's file calls ``name``; without it, tell ``what`` it has to be."""
    need(hasattr(mine, name), f"the file defines no {name}: {what}")
    return getattr(mine, name)


def code(mine: Any) -> bytes:
    """Return the guest's instructions of the reader's file, at most a page."""
    found = part(mine, "CODE", "the bytes of the guest's instructions")
    need(isinstance(found, bytes | bytearray), f"CODE is {type(found).__name__}, must be bytes")
    need(len(found) > 0, "CODE is empty: write the bytes of your instructions")
    need(len(found) <= 4096, f"CODE has {len(found)} bytes, at most 4096 fit into the page")
    return bytes(found)


def function(mine: Any, name: str, what: str) -> Callable[..., Any]:
    """Return a function or class of the reader's file."""
    found = part(mine, name, what)
    need(callable(found), f"{name} is {type(found).__name__}, must be {what}")
    result: Callable[..., Any] = found
    return result
