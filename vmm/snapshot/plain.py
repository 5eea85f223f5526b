"""Records of plain values, to what JSON can hold and back.

A state is made of records, tuples, lists, dicts with text keys, numbers, text and bytes. A record,
a dataclass or a named tuple, becomes an object, and bytes become one with a key of their own;
everything else that JSON lacks is told by the type that is read. What is read may come from
anybody: each part is of its type, and within the limits of that (:mod:`virtio.saved`), or refused
by its name.
"""

import types
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

from virtio.saved import is_one_of, part_types, shown

Value = TypeVar("Value")

MAX_DEPTH: Final = 32
"""How deep the own state of a device may be nested."""

_BYTES: Final = "bytes"


class _Misfit(ValueError):
    """What is wrong with a part; ``place`` is put together on the way out."""

    def __init__(self, fault: str) -> None:
        super().__init__(fault)
        self.fault = fault
        self.place = ""

    def __str__(self) -> str:
        return f"{self.place.removeprefix('.')} {self.fault}".strip()


def to_plain(value: Any) -> Any:
    """Return ``value`` as objects that ``json`` writes; raises TypeError for what is no state."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray):
        return {_BYTES: value.hex()}
    kind: Any = type(value)
    if parts := part_types(kind):
        return {name: to_plain(getattr(value, name)) for name in parts}
    if isinstance(value, Mapping):
        return {_text(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} is no part of a state")


def from_plain(kind: type[Value], value: Any) -> Value:
    """Return the ``kind`` that ``value`` was made from; raises ValueError when it cannot be one."""
    return _read(kind, value)  # type: ignore[no-any-return]


def _read(kind: Any, value: Any) -> Any:
    if kind is Any:
        return _read_any(value, MAX_DEPTH)
    if parts := part_types(kind):
        return _read_record(kind, parts, value)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _read_restricted(arguments[0], arguments[1:], value)
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value)
    if origin in (tuple, list, dict):
        return _read_container(origin, arguments, value)
    if origin is Literal:
        if is_one_of(value, arguments):
            return value
    elif kind is bytes:
        return _read_bytes(value)
    elif kind in (int, bool):  # True is an int for Python, but not in a state
        if type(value) is kind:
            return value
    elif isinstance(kind, type) and isinstance(value, kind):
        return value
    raise _misfit(value, kind)


def _misfit(value: Any, kind: Any) -> _Misfit:
    return _Misfit(f"is {shown(value)}, which is not of type {getattr(kind, '__name__', kind)}")


def _inside(place: str, kind: Any, value: Any) -> Any:
    """Read a part; what is wrong with it is told with its place."""
    try:
        return _read(kind, value)
    except _Misfit as misfit:
        misfit.place = place + misfit.place
        raise


def _read_restricted(kind: Any, restrictions: tuple[Any, ...], value: Any) -> Any:
    found = _read(kind, value)
    for one in restrictions:
        if fault := one.fault(found):
            raise _Misfit(fault)
    return found


def _read_record(kind: Any, parts: Mapping[str, Any], value: Any) -> Any:
    if not isinstance(value, dict):
        raise _misfit(value, kind)
    for name in value.keys() - parts.keys():
        raise _Misfit(f"has {shown(name)}, which is not a part of {kind.__name__}")
    read = {name: _inside(f".{name}", parts[name], item) for name, item in value.items()}
    try:
        return kind(**read)
    except TypeError:
        missing = ", ".join(name for name in parts if name not in value)
        raise _Misfit(f"lacks {missing} of {kind.__name__}") from None


def _read_union(kinds: tuple[Any, ...], value: Any) -> Any:
    if value is None and type(None) in kinds:
        return None
    failures = []
    for kind in kinds:
        try:
            return _read(kind, value)
        except _Misfit as misfit:
            failures.append(misfit)
    raise failures[0]


def _read_container(origin: Any, arguments: tuple[Any, ...], value: Any) -> Any:
    if origin is dict:
        if not isinstance(value, dict):
            raise _misfit(value, origin)
        return {key: _inside(f"[{shown(key)}]", arguments[1], item) for key, item in value.items()}
    if not isinstance(value, list):
        raise _misfit(value, origin)
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(arguments) != len(value):
            raise _Misfit(f"has {len(value)} items, {len(arguments)} are needed")
        kinds = arguments
    else:
        kinds = arguments[:1] * len(value)
    return origin(
        _inside(f"[{number}]", kind, item)
        for number, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _read_bytes(value: Any) -> bytes:
    if not isinstance(value, dict) or value.keys() != {_BYTES}:
        raise _misfit(value, bytes)
    try:
        return bytes.fromhex(value[_BYTES])
    except (TypeError, ValueError):
        raise _Misfit("is no hexadecimal text") from None


def _read_any(value: Any, depth: int) -> Any:
    """Return what a device put into its own state; its tuples come back as lists or dicts."""
    if not depth:
        raise _Misfit(f"is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        if value.keys() == {_BYTES}:
            return _read_bytes(value)
        return {key: _read_any(item, depth - 1) for key, item in value.items()}
    return [_read_any(item, depth - 1) for item in value] if isinstance(value, list) else value


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{key!r}: the keys of a state are text")
    return key
