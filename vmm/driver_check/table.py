"""The table of duties for one run of a guest: kept, broken, or not exercised."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from vmm.driver_check.case import Tally
from vmm.driver_check.diagnosis import Diagnosis
from vmm.driver_check.doctor import DriverDoctor
from vmm.driver_check.duties import Duty, load_duties

Verdict = Literal["kept", "broken", "not exercised"]


@dataclass(frozen=True, slots=True)
class Row:
    """A duty, with how often it was seen to be kept and broken, and at which devices."""

    duty: Duty
    kept: int
    broken: int
    devices: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """What became of the duty."""
        if self.broken:
            return "broken"
        return "kept" if self.kept else "not exercised"


class DutyTable:
    """What a doctor found, duty by duty."""

    def __init__(self, doctor: DriverDoctor) -> None:
        self.diagnoses: list[Diagnosis] = list(doctor.diagnoses)
        self.rows = [_row(duty, doctor.tallies) for duty in load_duties().duties.values()]

    @property
    def broken(self) -> list[Row]:
        """The duties that a driver broke."""
        return [row for row in self.rows if row.verdict == "broken"]

    def count(self, verdict: Verdict) -> int:
        """Return how many duties have a verdict."""
        return sum(row.verdict == verdict for row in self.rows)

    def lines(self) -> Iterator[str]:
        """Return the table as text, the diagnoses behind it."""
        for row in self.rows:
            duty = row.duty
            only = f" ({duty.only})" if duty.only else ""
            yield f"{duty.id:<11} {row.verdict:<13} {duty.section:<22} {duty.says}{only}"
        yield ""
        for diagnosis in self.diagnoses:
            first, *rest = diagnosis.lines
            yield first
            yield from (f"  {line}" for line in rest)
        kept, broken = self.count("kept"), self.count("broken")
        yield f"{kept} duties kept, {broken} broken, {self.count('not exercised')} not exercised"

    def to_json(self) -> str:
        """Return all of it as one JSON object, on lines."""
        value: dict[str, Any] = {
            "specification": "VIRTIO 1.2",
            "duties": [
                {
                    "id": row.duty.id,
                    "section": row.duty.section,
                    "title": row.duty.title,
                    "says": row.duty.says,
                    "only": row.duty.only,
                    "verdict": row.verdict,
                    "devices": list(row.devices),
                }
                for row in self.rows
            ],
            "diagnoses": [
                {
                    "id": one.id,
                    "duty": one.mistake.duty.id,
                    "device": one.device,
                    "queue": one.queue if one.queue >= 0 else None,
                    "stall": one.mistake.stall,
                    "hint": one.mistake.hint,
                    "did": one.did,
                    "expected": one.expected,
                    "next": one.next,
                }
                for one in self.diagnoses
            ],
        }
        return json.dumps(value, indent=2)


def _row(duty: Duty, cases: list[Tally]) -> Row:
    broken = [one for one in cases if one.broken[duty.id]]
    kept = [one for one in cases if one.kept[duty.id]]
    names = sorted({one.name for one in (broken or kept)})
    return Row(
        duty,
        sum(one.kept[duty.id] for one in kept),
        sum(one.broken[duty.id] for one in broken),
        tuple(names),
    )
