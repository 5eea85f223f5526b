"""Named tuples of our own behave as those of the library do."""

import copy
import pickle
import typing
from typing import Any

import pytest

from virtio.named_tuple import NamedTuple


class Place(NamedTuple):
    """A place on a disk."""

    sector: int
    length: int = 512

    @property
    def end(self) -> int:
        """The sector after it."""
        return self.sector + self.length // 512

    def fields(self) -> int:
        """Use the cell of the class."""
        return super().__len__()


class Own(NamedTuple):
    index: int  # type: ignore[assignment]
    length: int


class Theirs(typing.NamedTuple):
    index: int  # type: ignore[assignment]
    length: int


class Wide(Place):
    """A subclass, with its own ``__dict__``."""


class Late(NamedTuple):
    first: int
    second: int = 2


class LateChild(Late):
    """Made before any object of its base."""


def test_it_is_a_tuple_with_names() -> None:
    place = Place(8)

    assert place == (8, 512)
    assert (place.sector, place.length, place.end) == (8, 512, 9)
    assert repr(place) == "Place(sector=8, length=512)"
    assert hash(place) == hash((8, 512))


def test_fields_are_given_by_name() -> None:
    assert Place(length=1024, sector=3) == Place(3, 1024)


def test_method_may_use_super() -> None:
    assert Place(8).fields() == 2


@pytest.mark.parametrize(("values", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"wide": 2})])
def test_constructor_refuses_what_does_not_fit(
    values: tuple[int, ...], named: dict[str, int]
) -> None:
    with pytest.raises(TypeError):
        Place(*values, **named)


def test_field_may_be_called_as_a_method_of_a_tuple() -> None:
    assert Own(7, 1).index == 7


def test_it_has_what_the_librarys_has() -> None:
    ours: Any = Own
    theirs: Any = Theirs

    assert ours._fields == theirs._fields == ours.__match_args__
    assert ours.__bases__ == theirs.__bases__ == (tuple,)
    assert ours(1, 2)._asdict() == theirs(1, 2)._asdict()
    assert typing.get_type_hints(ours) == typing.get_type_hints(theirs)
    assert not hasattr(ours(1, 2), "__dict__")
    assert (Place._field_defaults, Place.__doc__) == ({"length": 512}, "A place on a disk.")


def test_replaced_is_of_the_same_class() -> None:
    assert Wide(1)._replace(length=1) == (1, 1)
    assert type(Wide(1)._replace(length=1)) is Wide
    with pytest.raises(ValueError, match="wide"):
        Place(1)._replace(wide=1)  # type: ignore[call-arg]


def test_made_of_as_many_values_as_it_has_fields() -> None:
    assert Place._make([1, 2]) == Place(1, 2)
    with pytest.raises(TypeError, match="2 arguments, got 1"):
        Place._make([1])


def test_subclass_may_be_made_before_its_base() -> None:
    assert type(LateChild(1)) is LateChild
    assert (LateChild(1), Late(1)) == ((1, 2), (1, 2))
    assert type(Late(1)) is Late


@pytest.mark.parametrize("value", [Place(8, 1), Wide(8, 1)])
def test_copies_equal_their_original(value: Place) -> None:
    for same in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert (type(same), same) == (type(value), value)


def test_field_cannot_be_assigned() -> None:
    with pytest.raises(AttributeError):
        Place(1).sector = 2  # type: ignore[misc]


def test_match_takes_the_fields_apart() -> None:
    match Place(8, 4):
        case Place(sector, length):
            assert (sector, length) == (8, 4)
