"""What an operation of FUSE may answer instead of bytes: nothing, data in place, or something late.

An operation returns the bytes behind the answer's header, or one of these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from virtio.fs.filesystem import Later


class NoAnswer:
    """The driver expects none, and gave no room for one."""


NO_ANSWER: Final = NoAnswer()


class InPlace:
    """So many bytes stand behind the answer's header already."""

    __slots__ = ("length",)

    def __init__(self, length: int) -> None:
        self.length = length


class Waiting:
    """Work that may wait: ``begin`` returns it, and ``pack`` makes an answer of its result.

    ``changes`` tells whether it changes the file system.
    """

    __slots__ = ("begin", "changes", "pack")

    def __init__(
        self,
        begin: Callable[[], Later[Any]],
        pack: Callable[[Any], bytes],
        *,
        changes: bool = False,
    ) -> None:
        self.begin = begin
        self.pack = pack
        self.changes = changes


class LockWait:
    """A lock that another one keeps from being taken; ``attempt`` tries again, as SETLK does."""

    __slots__ = ("attempt",)

    def __init__(self, attempt: Callable[[], None]) -> None:
        self.attempt = attempt


class Interrupt:
    """The request with this number shall not wait any longer."""

    __slots__ = ("unique",)

    def __init__(self, unique: int) -> None:
        self.unique = unique


Answer = bytes | NoAnswer | InPlace | Waiting | LockWait | Interrupt
