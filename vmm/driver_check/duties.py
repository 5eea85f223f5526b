"""The duties of a driver and the mistakes it can make, as ``duties.toml`` has them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Only = Literal["", "mmio", "pci", "packed"]


@dataclass(frozen=True, slots=True)
class Duty:
    """A rule that a driver must keep: ``section`` of VIRTIO 1.2, ``says`` in plain words.

    ``only`` names the transport, or the form of ring, that the rule is for.
    """

    id: str
    section: str
    title: str
    says: str
    only: Only = ""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A way to break a duty; the texts have places in braces.

    A ``stall`` shows only when the guest stands still, and a ``hint`` breaks no rule. ``item`` is
    that of the device's conformance list which the device names when it sees the mistake.
    """

    id: str
    duty: Duty
    did: str
    expected: str
    next: str
    stall: bool = False
    hint: bool = False
    item: str = ""


@dataclass(frozen=True, slots=True)
class Duties:
    """All duties, and all mistakes by their id and by the item of the device's list."""

    duties: dict[str, Duty]
    mistakes: dict[str, Mistake]
    by_item: dict[str, Mistake]


@cache
def load_duties() -> Duties:
    """Return the table; reads its file at the first call.

    >>> load_duties().mistakes["never-reset"].duty.section
    '3.1.1'
    """
    text = files("vmm.driver_check").joinpath("duties.toml").read_text("utf-8")
    duties: dict[str, Duty] = {}
    mistakes: dict[str, Mistake] = {}
    for entry in tomllib.loads(text)["duty"]:
        found: list[dict[str, Any]] = entry.pop("mistake")
        duty = duties[entry["id"]] = Duty(**entry)
        mistakes |= {one["id"]: Mistake(duty=duty, **one) for one in found}
    return Duties(duties, mistakes, {one.item: one for one in mistakes.values() if one.item})
