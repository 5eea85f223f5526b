"""The items of the specification, the tests that prove them, and how the two meet.

The items stand in ``items.toml`` beside this file; a test names those it proves by
``@pytest.mark.spec("SPL-33")``.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ITEMS = Path(__file__).with_name("items.toml")

Verdict = Literal["passed", "failed", "skipped", "not run", "untested", "not applicable"]


@dataclass(slots=True)
class Case:
    """A test function with its parametrized cases.

    ``path`` is its file, relative to the root of the repository, ``name`` the rest of its pytest
    name; ``items`` are the identifiers that it is marked with. ``outcomes`` has one outcome per
    case that was run, ``reason`` why one was skipped.
    """

    path: str
    name: str
    items: set[str] = field(default_factory=set)
    number: int = 0
    outcomes: list[str] = field(default_factory=list)
    reason: str = ""

    @property
    def verdict(self) -> Verdict:
        """The worst of its cases; skipped only when all of them were."""
        if "failed" in self.outcomes:
            return "failed"
        if "passed" in self.outcomes:
            return "passed"
        return "skipped" if self.outcomes else "not run"


@dataclass(slots=True)
class Item:
    """An item of the specification, and the tests that name it, in order of file and name."""

    id: str
    says: str
    strength: str
    section: str
    not_applicable: str = ""
    tests: list[Case] = field(default_factory=list)

    @property
    def group(self) -> str:
        """The part of the identifier that names the group."""
        return self.id.partition("-")[0]

    @property
    def verdict(self) -> Verdict:
        """What its tests say together: failed if one failed, passed if one passed."""
        if not self.tests:
            return "not applicable" if self.not_applicable else "untested"
        verdicts = {test.verdict for test in self.tests}
        order: tuple[Verdict, ...] = ("failed", "passed", "skipped", "not run")
        return next(one for one in order if one in verdicts)

    @property
    def remark(self) -> str:
        """Why it is not proved, as far as somebody said."""
        return self.not_applicable or next((one.reason for one in self.tests if one.reason), "")


@dataclass(slots=True)
class Catalogue:
    """All items, in order; ``groups`` maps the name of a group to its title."""

    groups: Mapping[str, str]
    items: Mapping[str, Item]

    def of_group(self, group: str) -> list[Item]:
        """Return the items of a group."""
        return [item for item in self.items.values() if item.group == group]

    def assign(self, cases: Iterable[Case]) -> list[str]:
        """Give each item its tests; returns what is wrong, a line each."""
        problems = []
        for case in sorted(cases, key=lambda one: (one.path, one.name)):
            for identifier in sorted(case.items):
                if identifier in self.items:
                    self.items[identifier].tests.append(case)
                else:
                    problems.append(f"{case.path}::{case.name}: there is no item {identifier}")
        return problems + [line for item in self.items.values() for line in _complaints(item)]


def _complaints(item: Item) -> Sequence[str]:
    if item.not_applicable and item.tests:
        return [f"{item.id}: has a test, and a reason for not_applicable: remove one"]
    if item.verdict == "untested":
        return [f"{item.id}: has no test, and no reason for not_applicable: {item.says}"]
    return [f"{item.id}: {t.path}::{t.name} failed" for t in item.tests if t.verdict == "failed"]


def load(path: Path = ITEMS) -> Catalogue:
    """Read the catalogue. Raises :class:`ValueError` for an item of no group."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    items = {name: Item(name, **entry) for name, entry in data["items"].items()}
    strays = [item.id for item in items.values() if item.group not in data["groups"]]
    if strays:
        raise ValueError(f"{path.name}: {', '.join(strays)} in no group of {list(data['groups'])}")
    return Catalogue(data["groups"], items)
