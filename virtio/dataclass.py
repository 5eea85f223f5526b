"""Dataclasses that are made in microseconds, without the library's ``dataclasses``.

That module imports ``inspect``, with the parser and the disassembler behind it, and compiles source
for each class: 10 of the 100 ms to the guest's first instruction. The classes made here share their
constructor, comparison and text; what only the library's have, it adds when somebody asks. For the
type checker they are the library's.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
else:

    def field(*, default_factory: "Callable[[], object]") -> "_Factory":
        """Return a default for a field: what ``default_factory`` returns, for each object anew."""
        return _Factory(default_factory)

    def dataclass(*, slots: bool, frozen: bool = False) -> "Callable[[type], type]":
        """Make a class with slots whose annotations are its fields, as ``dataclasses`` does.

        ``__post_init__`` is called at the end of the constructor. ``dataclasses.replace``,
        ``fields`` and ``asdict`` work, and so do ``copy``, ``pickle``, ``match`` and a dataclass
        made of a subclass. The class itself has no base.

        >>> @dataclass(frozen=True, slots=True)
        ... class Place:
        ...     sector: int
        ...     length: int = 512
        >>> Place(8)
        Place(sector=8, length=512)
        >>> Place(sector=8) == Place(8, 512)
        True
        """
        assert slots
        return lambda declared: _with_fields(declared, frozen)


class _Factory:
    """A default that is made anew for each object."""

    def __init__(self, make: "Callable[[], object]") -> None:
        self.make = make


def _with_fields(declared: type, frozen: bool) -> type:
    """Return the class made again with slots, which no class gets later."""
    body: dict[str, Any] = {**vars(declared), "__qualname__": declared.__qualname__}
    del body["__dict__"], body["__weakref__"]
    names = tuple(body.get("__annotations__", ()))
    defaults = {name: body.pop(name) for name in names if name in body}
    methods = {**_METHODS, **(_FROZEN if frozen else {"__hash__": None})}
    late = {name: _FromLibrary(name, frozen) for name in _LATE}
    body |= {"__slots__": names, "__match_args__": names, "_defaults": defaults, **late}
    return type(declared.__name__, (), {**methods, **body})


def _values(self: Any) -> tuple[object, ...]:
    return tuple([getattr(self, name) for name in self.__match_args__])


def _init(self: Any, /, *values: object, **named: object) -> None:
    names, defaults, kind = self.__match_args__, self._defaults, type(self).__name__
    if len(values) > len(names):
        raise TypeError(f"{kind}() takes {len(names)} values, and {len(values)} were given")
    given = dict(zip(names, values, strict=False))
    if twice := given.keys() & named.keys():
        raise TypeError(f"{kind}() got two values for {', '.join(sorted(twice))}")
    given |= named
    if unknown := given.keys() - set(names):
        raise TypeError(f"{kind}() has no field {', '.join(sorted(unknown))}")
    if missing := [name for name in names if name not in given and name not in defaults]:
        raise TypeError(f"{kind}() needs a value for {', '.join(missing)}")
    for name in names:
        value = given[name] if name in given else defaults[name]
        if name not in given and isinstance(value, _Factory):
            value = value.make()
        object.__setattr__(self, name, value)
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _repr(self: Any) -> str:
    pairs = zip(self.__match_args__, _values(self), strict=True)
    return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in pairs)})"


def _equal(self: Any, other: object) -> bool:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _set_state(self: Any, values: tuple[object, ...]) -> None:
    for name, value in zip(self.__match_args__, values, strict=True):
        object.__setattr__(self, name, value)


def _set_if_free(self: Any, name: str, value: object) -> None:
    _check_free(self, name)
    object.__setattr__(self, name, value)


def _delete_if_free(self: Any, name: str) -> None:
    _check_free(self, name)
    object.__delattr__(self, name)


def _check_free(self: Any, name: str) -> None:
    """Refuse to change a field, or what is none; only a subclass may have other attributes."""
    if name in self.__match_args__ or not hasattr(self, "__dict__"):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"{type(self).__name__} is frozen: {name} cannot be changed")


class _FromLibrary:
    """An attribute that the library's dataclasses have, from one of those with the same fields."""

    def __init__(self, name: str, frozen: bool) -> None:
        self._name = name
        self._frozen = frozen

    def __set_name__(self, home: Any, name: str) -> None:
        self._home = home

    def __get__(self, instance: object, owner: type) -> object:
        import dataclasses
        import inspect

        home = self._home
        body = {"__annotations__": home.__annotations__, "__module__": home.__module__}
        for name, default in home._defaults.items():
            made = isinstance(default, _Factory)
            body[name] = dataclasses.field(default_factory=default.make) if made else default
        twin: Any = dataclasses.dataclass(frozen=self._frozen)(type(home.__name__, (), body))
        return inspect.signature(twin) if self._name == "__signature__" else vars(twin)[self._name]


_METHODS = {
    "__init__": _init,
    "__repr__": _repr,
    "__eq__": _equal,
    "__getstate__": _values,
    "__setstate__": _set_state,
}
_FROZEN = {"__hash__": _hash, "__setattr__": _set_if_free, "__delattr__": _delete_if_free}
_LATE = ("__dataclass_fields__", "__dataclass_params__", "__signature__")
