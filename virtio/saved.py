"""What a saved state may hold: the types of its parts, and whether a value is of them.

A saved state comes from a file that anybody may have written. So each class of states says in its
annotations how large its numbers, and how many its items may be, and whoever rebuilds something
from a state checks it first::

    >>> from typing import NamedTuple
    >>> class Position(NamedTuple):
    ...     index: U16
    ...     chains: Annotated[tuple[U8, ...], Length(2)]
    >>> check_saved("ring", Position(7, (1, 2)))
    >>> check_saved("ring", Position(70000, ()))
    Traceback (most recent call last):
    virtio.errors.ConfigurationError: saved ring: index is 70000, must be 0 to 65535

What the annotations cannot tell, such as that two numbers fit each other, each class checks itself.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from functools import cache
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin
from typing import get_type_hints as _get_type_hints

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple

SHOWN: Final = 60
"""How many characters of a wrong value a message shows at most."""


class Within(NamedTuple):
    """A number from ``low`` to ``high``, both included."""

    low: int
    high: int

    def fault(self, value: int) -> str:
        """Return what is wrong with a number; nothing if it is right."""
        if self.low <= value <= self.high:
            return ""
        return f"is {shown(value)}, must be {self.low} to {self.high}"


class Length(NamedTuple):
    """Text, bytes or a list of at most ``high`` items, and at least ``low``."""

    high: int
    low: int = 0

    def fault(self, value: Any) -> str:
        """Return what is wrong with the length; nothing if it is right."""
        if self.low <= len(value) <= self.high:
            return ""
        most = f"{self.low}" if self.low == self.high else f"{self.low} to {self.high}"
        return f"has {len(value)} items, must have {most}"


U8 = Annotated[int, Within(0, 0xFF)]
U16 = Annotated[int, Within(0, 0xFFFF)]
U32 = Annotated[int, Within(0, 0xFFFF_FFFF)]
U64 = Annotated[int, Within(0, 0xFFFF_FFFF_FFFF_FFFF)]
FeatureSet = Annotated[int, Within(0, (1 << 128) - 1)]
"""A mask of feature bits."""
Line = Annotated[str, Length(1000)]
"""Text for a message."""

Checker = Callable[[Any], str]
"""Returns what is wrong with a value, after the name of the part; nothing if it is right."""


def check_saved(where: str, state: Any) -> None:
    """Raise :class:`ConfigurationError` unless a state is what the annotations of its class say.

    The message begins with ``where``, and names the part.
    """
    kind: Any = type(state)
    fault = checker(kind)(state)
    if fault:
        raise ConfigurationError(f"saved {where}: {fault.removeprefix('.')}")


def checked(kind: Any, where: str, value: Any) -> Any:
    """Return ``value`` if it is of a type of this module's; raises as :func:`check_saved` does."""
    fault = checker(kind)(value)
    if fault:
        raise ConfigurationError(f"saved {where}{fault}")
    return value


def shown(value: object, most: int = SHOWN) -> str:
    """Return a wrong value as a message shows it: in one line, and short.

    Python refuses to write very long numbers as text, and a list may be as long as its file: such
    are shown by their length.
    """
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, dict | list | tuple):
        if len(value) > 3 or any(hasattr(item, "__len__") for item in value):
            return f"a {type(value).__name__} of {len(value)} items"
    elif isinstance(value, str | bytes):
        value = value[:most]
    return f"{value!r:.{most + 3}}"


@cache
def part_types(kind: Any) -> dict[str, Any]:
    """Return the parts of a record, a dataclass or a named tuple, and their types; else none."""
    if not isinstance(kind, type):
        return {}
    # Both kinds have this; ``dataclasses`` takes as long to import as all of a queue.
    names = getattr(kind, "__match_args__", ())
    return {name: _hints(kind)[name] for name in names}


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return _get_type_hints(kind, include_extras=True)


@cache
def checker(kind: Any) -> Checker:
    """Return what checks values of a type; made once for each, as restoring takes milliseconds."""
    if kind is Any:
        return lambda value: ""
    if kind is None or kind is type(None):
        return lambda value: "" if value is None else _unlike("None", value)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _restricted(checker(arguments[0]), arguments[1:])
    if origin is Literal:
        return lambda value: "" if is_one_of(value, arguments) else _unlike(arguments, value)
    if origin in (Union, types.UnionType):
        return _any_of([checker(one) for one in arguments])
    if origin in (tuple, list) and (origin is list or arguments[-1] is Ellipsis):
        return _list_of(origin, checker(arguments[0]))
    if origin is tuple:
        return _items([checker(one) for one in arguments])
    if origin is dict:
        return _mapping(*map(checker, arguments))
    parts = part_types(kind)
    if parts:
        return _record(kind, [(name, checker(one)) for name, one in parts.items()])
    return _exactly(kind)


def is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Tell whether a value is one of a ``Literal``; True is not 1 there."""
    return any(type(value) is type(one) and value == one for one in allowed)


def _unlike(kind: object, value: object) -> str:
    return f" is {shown(value)}, must be {getattr(kind, '__name__', kind)}"


def _exactly(kind: Any) -> Checker:
    # A bool is an int for Python, but none for C, nor for a driver.
    if kind in (int, bool):
        return lambda value: "" if type(value) is kind else _unlike(kind, value)
    if not isinstance(kind, type):
        return lambda value: ""  # a callable, of which nothing more can be said
    return lambda value: "" if isinstance(value, kind) else _unlike(kind, value)


def _restricted(inner: Checker, restrictions: tuple[Any, ...]) -> Checker:
    if len(restrictions) == 1 and isinstance(restrictions[0], Within):
        within = restrictions[0]
        low, high = within.low, within.high

        def check_number(value: Any) -> str:
            if type(value) is int and low <= value <= high:
                return ""
            return inner(value) or f" {within.fault(value)}"

        return check_number

    def check(value: Any) -> str:
        fault = inner(value)
        for one in restrictions:
            if not fault and (wrong := one.fault(value)):
                fault = f" {wrong}"
        return fault

    return check


def _any_of(checkers: list[Checker]) -> Checker:
    def check(value: Any) -> str:
        faults = [check_one(value) for check_one in checkers]
        return "" if "" in faults else faults[0]

    return check


def _list_of(kind: Any, check_item: Checker) -> Checker:
    def check(value: Any) -> str:
        return _first_fault(value, check_item) if isinstance(value, kind) else _unlike(kind, value)

    return check


def _first_fault(items: Iterable[Any], check_item: Checker) -> str:
    for number, item in enumerate(items):
        if fault := check_item(item):
            return f"[{number}]{fault}"
    return ""


def _items(checkers: list[Checker]) -> Checker:
    def check(value: Any) -> str:
        if not isinstance(value, tuple) or len(value) != len(checkers):
            return _unlike(f"{len(checkers)} items", value)
        faults = (check_item(item) for check_item, item in zip(checkers, value, strict=True))
        return _first_fault(faults, str)

    return check


def _mapping(check_key: Checker, check_value: Checker) -> Checker:
    def check(value: Any) -> str:
        if not isinstance(value, dict):
            return _unlike(dict, value)
        for key, item in value.items():
            if fault := check_key(key) or check_value(item):
                return f"[{shown(key)}]{fault}"
        return ""

    return check


def _record(kind: type, parts: list[tuple[str, Checker]]) -> Checker:
    def check(value: Any) -> str:
        if not isinstance(value, kind):
            return _unlike(kind, value)
        for name, check_part in parts:
            if fault := check_part(getattr(value, name)):
                return f".{name}{fault}"
        return ""

    return check
