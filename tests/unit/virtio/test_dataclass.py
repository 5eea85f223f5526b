"""Dataclasses that are made without the library behave as those of the library do."""

import copy
import dataclasses
import inspect
import pickle

import pytest

from virtio.dataclass import dataclass, field


@dataclass(frozen=True, slots=True)
class Place:
    sector: int
    length: int = 512
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ValueError("length")


@dataclass(slots=True)
class Mark:
    name: str


class Named(Place):
    """A subclass that has room for more."""


def test_fields_are_given_by_place_and_by_name() -> None:
    assert Place(8, notes=["a"]) == Place(sector=8, length=512, notes=["a"])
    assert Place(8) != Place(9)
    other: object = (8, 512, [])
    assert Place(8) != other


def test_text_shows_each_field() -> None:
    assert repr(Place(8)) == "Place(sector=8, length=512, notes=[])"


def test_each_object_has_a_default_of_its_own() -> None:
    assert Place(1).notes is not Place(1).notes


@pytest.mark.parametrize(
    ("values", "named", "message"),
    [
        ((), {}, "needs a value for sector"),
        ((1, 2, [], 4), {}, "takes 3 values"),
        ((1,), {"sector": 2}, "two values for sector"),
        ((1,), {"wide": 2}, "no field wide"),
    ],
)
def test_constructor_refuses_what_does_not_fit(
    values: tuple[object, ...], named: dict[str, object], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        Place(*values, **named)  # type: ignore[arg-type]


def test_values_are_checked_when_they_are_made_and_replaced() -> None:
    with pytest.raises(ValueError, match="length"):
        Place(1, -1)
    with pytest.raises(ValueError, match="length"):
        dataclasses.replace(Place(1), length=-1)


def test_frozen_object_refuses_changes() -> None:
    place = Place(1)

    with pytest.raises(dataclasses.FrozenInstanceError):
        place.length = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del place.length
    with pytest.raises(dataclasses.FrozenInstanceError):
        place.other = 3  # type: ignore[attr-defined]

    assert place == Place(1)


def test_subclass_of_a_frozen_one_may_have_more_than_the_fields() -> None:
    named = Named(1)
    named.other = 3  # type: ignore[attr-defined]

    with pytest.raises(dataclasses.FrozenInstanceError):
        named.sector = 2  # type: ignore[misc]


def test_other_object_has_slots_and_takes_changes() -> None:
    mark = Mark("a")
    mark.name = "b"

    with pytest.raises(AttributeError):
        mark.other = 3  # type: ignore[attr-defined]

    assert mark == Mark("b")


def test_only_a_frozen_one_is_hashable() -> None:
    @dataclass(frozen=True, slots=True)
    class Key:
        number: int

    assert len({Key(1), Key(1), Key(2)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(Mark("a"))


@pytest.mark.parametrize("value", [Place(8, 1, ["x"]), Mark("a")])
def test_copies_equal_their_original(value: object) -> None:
    assert copy.copy(value) == value
    assert copy.deepcopy(value) == value
    assert pickle.loads(pickle.dumps(value)) == value


def test_functions_of_the_library_know_it() -> None:
    assert dataclasses.replace(Place(8, 1), sector=9) == Place(9, 1)
    assert dataclasses.asdict(Place(8)) == {"sector": 8, "length": 512, "notes": []}
    assert [one.name for one in dataclasses.fields(Place)] == ["sector", "length", "notes"]
    assert list(inspect.signature(Place).parameters) == ["sector", "length", "notes"]


def test_dataclass_of_the_library_may_derive_from_it() -> None:
    @dataclasses.dataclass(frozen=True)
    class Long(Place):
        unit: str = "bytes"

    assert Long(1, unit="sectors") == Long(1, 512, [], "sectors")


def test_match_takes_the_fields_apart() -> None:
    match Place(8, 4):
        case Place(sector, length):
            assert (sector, length) == (8, 4)
        case _:
            pytest.fail("no match")
