"""A state goes to JSON and comes back as what it was, or is refused."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from vmm.snapshot.plain import from_plain, to_plain


@dataclass(frozen=True, slots=True)
class Inner:
    pairs: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Outer:
    number: int
    flag: bool
    text: str | None
    kind: Literal["a", "b"]
    inner: tuple[Inner, ...]
    lengths: list[int]
    device: dict[str, Any]
    optional: Inner | None = None


VALUE = Outer(
    number=1 << 127,
    flag=True,
    text=None,
    kind="b",
    inner=(Inner(((1, b"\0\xff"), (2, b""))), Inner(())),
    lengths=[3, 4],
    device={"config": {"capacity": 7, "tag": b"x"}, "list": [1, "two", b"3"]},
    optional=Inner(((9, b"nine"),)),
)


def test_a_state_survives_json() -> None:
    assert from_plain(Outer, json.loads(json.dumps(to_plain(VALUE)))) == VALUE


def test_the_form_is_readable() -> None:
    assert to_plain(Inner(((1, b"\0\xff"),))) == {"pairs": [[1, {"bytes": "00ff"}]]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("number", "1"),
        ("flag", 1),
        ("text", 5),
        ("kind", "c"),
        ("inner", [{"pairs": [[1]]}]),
        ("inner", {"pairs": []}),
        ("inner", [{"pears": []}]),
        ("lengths", ["3"]),
        ("device", [1]),
        ("optional", {"pairs": [[1, "00"]]}),
        ("optional", {"pairs": [[1, {"bytes": "0"}]]}),
        ("unknown", 0),
    ],
)
def test_what_does_not_fit_is_refused(key: str, value: object) -> None:
    plain = to_plain(VALUE) | {key: value}

    with pytest.raises(ValueError, match=r"is not|are needed|hexadecimal"):
        from_plain(Outer, plain)


def test_a_missing_part_is_refused() -> None:
    plain = to_plain(VALUE)
    del plain["number"]

    with pytest.raises(ValueError, match="number"):
        from_plain(Outer, plain)


@pytest.mark.parametrize("value", [object(), {1: 2}, {"a": {1, 2}}, Outer])
def test_what_is_no_state_is_not_written(value: object) -> None:
    with pytest.raises(TypeError):
        to_plain(value)
