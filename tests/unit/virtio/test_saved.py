"""The types of saved states: what fits, and what the message says of what does not."""

import doctest
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import pytest

import virtio.saved
from virtio.errors import ConfigurationError
from virtio.saved import U8, U64, Length, check_saved, checked


class Part(NamedTuple):
    number: U8
    data: Annotated[bytes, Length(2)]


@dataclass(frozen=True, slots=True)
class Whole:
    parts: tuple[Part, ...]
    pair: tuple[int, bool]
    kind: Literal[1, "b"]
    size: U64 | None
    names: dict[str, int]
    anything: Any
    lines: list[str]


WHOLE = Whole((Part(1, b"ab"),), (300, True), "b", None, {"a": 1}, object(), ["x"])


def test_the_examples_are_right() -> None:
    assert doctest.testmod(virtio.saved).failed == 0


def test_what_fits_is_taken() -> None:
    check_saved("thing", WHOLE)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("parts", (Part(256, b""),), r"parts\[0\]\.number is 256, must be 0 to 255"),
        ("parts", (Part(True, b""),), r"parts\[0\]\.number is True, must be int"),
        ("parts", (Part(0, b"abc"),), r"parts\[0\]\.data has 3 items, must have 0 to 2"),
        ("parts", [Part(0, b"")], "parts is .*, must be tuple"),
        ("parts", (7,), r"parts\[0\] is 7, must be Part"),
        ("pair", (1, 1), r"pair\[1\] is 1, must be bool"),
        ("pair", (1,), r"pair is \(1,\), must be 2 items"),
        ("kind", True, "kind is True"),
        ("size", 1 << 64, "size is 18446744073709551616, must be 0 to 18446744073709551615"),
        ("size", 1 << 300, "size is a number of 301 bits"),
        ("names", {"a\n": "1"}, r"names\['a\\n'\] is '1', must be int"),
        ("names", [], r"names is \[\], must be dict"),
        ("lines", ["x", "y", 1], r"lines\[2\] is 1, must be str"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: Any, message: str) -> None:
    parts = {one: getattr(WHOLE, one) for one in Whole.__slots__}

    with pytest.raises(ConfigurationError, match=f"^saved thing: {message}") as caught:
        check_saved("thing", Whole(**parts | {name: value}))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_one_value_is_checked_alone() -> None:
    assert checked(U8, "counter", 7) == 7
    with pytest.raises(ConfigurationError, match="saved counter is -1, must be 0 to 255"):
        checked(U8, "counter", -1)
