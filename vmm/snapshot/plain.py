"""Records of plain values, to what JSON can hold and back.

A state is made of records, tuples, lists, dicts with text keys, numbers, text and bytes. A record,
a dataclass or a named tuple, becomes an object, and bytes become one with a key of their own;
everything else that JSON lacks is told by the type that is read.
"""

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

Value = TypeVar("Value")

_BYTES: Final = "bytes"

_hints = cache(get_type_hints)


def to_plain(value: Any) -> Any:
    """Return ``value`` as objects that ``json`` writes; raises TypeError for what is no state."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray):
        return {_BYTES: value.hex()}
    if not isinstance(value, type) and (names := _names(type(value))):
        return {name: to_plain(getattr(value, name)) for name in names}
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
        return _read_any(value)
    if isinstance(kind, type) and (names := _names(kind)):
        return _read_record(kind, names, value)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value)
    if origin in (tuple, list, dict):
        return _read_container(origin, arguments, value)
    if kind is bytes:
        return _read_bytes(value)
    if origin is None and isinstance(kind, type) and isinstance(value, kind):
        return value
    if origin is not None and value in arguments:  # Literal
        return value
    raise ValueError(f"{value!r:.60} is not of type {kind}")


def _names(kind: Any) -> tuple[str, ...]:
    """Return the names of what a record holds; none for what is no record."""
    if is_dataclass(kind):
        return tuple(one.name for one in fields(kind))
    return getattr(kind, "_fields", ()) if issubclass(kind, tuple) else ()


def _read_record(kind: Any, names: tuple[str, ...], value: Any) -> Any:
    if not isinstance(value, dict) or value.keys() - set(names):
        raise ValueError(f"{value!r:.60} is not a {kind.__name__}")
    hints = _hints(kind)
    try:
        return kind(**{name: _read(hints[name], item) for name, item in value.items()})
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from None


def _read_union(kinds: tuple[Any, ...], value: Any) -> Any:
    if value is None and type(None) in kinds:
        return None
    failures = []
    for kind in kinds:
        try:
            return _read(kind, value)
        except ValueError as error:
            failures.append(str(error))
    raise ValueError("; ".join(failures))


def _read_container(origin: Any, arguments: tuple[Any, ...], value: Any) -> Any:
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{value!r:.60} is not a dict")
        return {key: _read(arguments[1], item) for key, item in value.items()}
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.60} is not a {origin.__name__}")
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(arguments) != len(value):
            raise ValueError(f"{len(value)} items, {len(arguments)} are needed")
        return tuple(_read(kind, item) for kind, item in zip(arguments, value, strict=True))
    return origin(_read(arguments[0], item) for item in value)


def _read_bytes(value: Any) -> bytes:
    if not isinstance(value, dict) or value.keys() != {_BYTES}:
        raise ValueError(f"{value!r:.60} is not bytes")
    return bytes.fromhex(value[_BYTES])


def _read_any(value: Any) -> Any:
    """Return what a device put into its own state; its tuples come back as lists or dicts."""
    if isinstance(value, dict):
        if value.keys() == {_BYTES}:
            return _read_bytes(value)
        return {key: _read_any(item) for key, item in value.items()}
    return [_read_any(item) for item in value] if isinstance(value, list) else value


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{key!r}: the keys of a state are text")
    return key
