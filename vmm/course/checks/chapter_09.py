"""Chapter 9: whether an index was passed."""

from collections.abc import Callable
from typing import Any

from vmm.course.missing import Step, function, need


def check(mine: Any, step: Step) -> None:
    """Compare with what the words say, chain by chain."""
    decide = function(mine, "should_interrupt", "should_interrupt(old, new, used_event)")
    for old in (0, 5, 1000):
        _compare(decide, old, "far from the end of 16 bits")
    step("indexes far from 65535 are decided right")
    _compare(decide, 0xFFFF - 4, "where 0 follows 65535 among the chains")
    _compare(decide, 0xFFFF, "where the first index is 65535")
    _compare(decide, 0x8000 - 3, "around 32768")
    step("indexes around 65535 are decided right")
    for old in (0, 0xC000):
        new = (old + 0x8000) & 0xFFFF
        for event in (old, old + 0x7FFF, old + 0x8000, old - 1):
            _one(decide, old, new, event & 0xFFFF, "in a move of 32768")
    step("large moves are decided right")
    for event in (0, 7, 0xFFFF):
        _one(decide, 7, 7, event, "when nothing was used")
    step("nothing used is no interrupt")


def _compare(decide: Callable[..., Any], old: int, where: str) -> None:
    for count in (1, 2, 9):
        new = (old + count) & 0xFFFF
        for distance in range(-3, count + 3):
            _one(decide, old, new, (old + distance) & 0xFFFF, where)


def _one(decide: Callable[..., Any], old: int, new: int, event: int, where: str) -> None:
    passed = {(old + count) & 0xFFFF for count in range((new - old) & 0xFFFF)}
    wanted = event in passed
    found = decide(old, new, event)
    need(
        found is True or found is False,
        f"should_interrupt returned {found!r}, must be True or False",
    )
    call = f"should_interrupt({old}, {new}, {event})"
    need(found == wanted, f"{where}: {call} is {found}, must be {wanted}")
