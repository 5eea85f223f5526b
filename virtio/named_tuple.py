"""Named tuples that are made in microseconds: as ``typing.NamedTuple``, compiled when first used.

The library's compiles source and looks at the type of each field for every class; most of the 30
classes that a start imports describe saved states, of which the start makes none. For the type
checker they are the library's.
"""

from collections.abc import Iterable
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

try:  # what the library's named tuples have: faster than a property
    from _collections import _tuplegetter as _getter  # type: ignore[import-not-found]
except ImportError:

    def _getter(index: int, doc: str | None) -> Any:
        return property(itemgetter(index), doc=doc)


def _first_new(cls: Any, /, *values: object, **named: object) -> Any:
    """Make the first object of a class, and the constructor for all others."""
    home = next(one for one in cls.__mro__ if "_fields" in vars(one))
    names, defaults = ", ".join(home._fields), tuple(home._field_defaults.values())
    code = f"lambda _cls, {names}: _new(_cls, ({names},))" if names else "lambda _cls: _new(_cls)"
    make = eval(code, {"_new": tuple.__new__, "__name__": f"namedtuple_{home.__name__}"})
    make.__defaults__ = defaults
    make.__name__ = "__new__"
    make.__qualname__ = f"{home.__qualname__}.__new__"
    home.__new__ = make
    return make(cls, *values, **named)


def _make(cls: Any, values: Iterable[object]) -> Any:
    made = tuple.__new__(cls, values)
    if len(made) != len(cls._fields):
        raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
    return made


def _replace(self: Any, /, **changes: object) -> Any:
    made = self._make(map(changes.pop, self._fields, self))
    if changes:
        raise ValueError(f"Got unexpected field names: {[*changes]!r}")
    return made


def _asdict(self: Any) -> dict[str, Any]:
    return dict(zip(self._fields, self, strict=True))


def _repr(self: Any) -> str:
    pairs = zip(self._fields, self, strict=True)
    return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in pairs)})"


def _new_arguments(self: Any) -> tuple[Any, ...]:
    return tuple(self)


_METHODS: Final = {
    "__new__": _first_new,
    "__repr__": _repr,
    "__getnewargs__": _new_arguments,
    "_make": classmethod(_make),
    "_replace": _replace,
    "_asdict": _asdict,
    "__slots__": (),
}


class _Meta(type):
    """Makes a class with fields of what is declared as a subclass of ``NamedTuple``."""

    def __new__(meta, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
        if not bases:
            return super().__new__(meta, name, bases, body)
        fields = tuple(body.get("__annotations__", ()))
        defaults = {field: body.pop(field) for field in fields if field in body}
        getters = {field: _getter(index, None) for index, field in enumerate(fields)}
        named = {"_fields": fields, "_field_defaults": defaults, "__match_args__": fields}
        return type(name, (tuple,), {**_METHODS, **body, **getters, **named})


if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:

    class NamedTuple(metaclass=_Meta):
        """A tuple whose items have names: the annotations of a class that derives from this.

        >>> class Place(NamedTuple):
        ...     sector: int
        ...     length: int = 512
        >>> place = Place(8)
        >>> place, place.length, place._replace(sector=9)
        (Place(sector=8, length=512), 512, Place(sector=9, length=512))
        """
