"""Medians over the rounds, and how our time compares with the others', and PCI with MMIO."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.perf.peers.contender import Contender
from tests.perf.peers.workload import Measurement


@dataclass(frozen=True, slots=True)
class Row:
    """One workload: microseconds and kicks per request of each contender, medians by its name.

    ``ratios`` has, for each of ours, its time over that of the best of the others on the same
    transport; it is empty without others. ``over_mmio`` has, for each on PCI, its time over that of
    the same one on virtio-mmio.
    """

    name: str
    microseconds: dict[str, float]
    kicks: dict[str, float]
    ratios: dict[str, float]
    over_mmio: dict[str, float]


def compare(
    rounds: Mapping[str, Sequence[Sequence[Measurement]]],
    contenders: Iterable[Contender],
    tsc_khz: int,
) -> list[Row]:
    """Return a row for each workload, from the rounds of each contender by its name."""
    contenders = list(contenders)
    names: dict[str, None] = {}
    cycles: dict[tuple[str, str], list[float]] = {}
    kicks: dict[tuple[str, str], list[float]] = {}
    for contender, measured in rounds.items():
        for one in (one for measurements in measured for one in measurements):
            names[one.workload.name] = None
            cycles.setdefault((one.workload.name, contender), []).append(one.cycles)
            kicks.setdefault((one.workload.name, contender), []).append(one.kicks)
    rows = []
    for name in names:
        times = _medians(cycles, name, 1000 / tsc_khz)
        like = {one.name: one.like for one in contenders if {one.name, one.like} <= times.keys()}
        over_mmio = {one: times[one] / times[other] for one, other in like.items()}
        medians = _medians(kicks, name, 1)
        rows.append(Row(name, times, medians, _ratios(times, contenders), over_mmio))
    return rows


def _medians(
    values: Mapping[tuple[str, str], list[float]], name: str, factor: float
) -> dict[str, float]:
    return {
        contender: statistics.median(found) * factor
        for (workload, contender), found in values.items()
        if workload == name
    }


def _ratios(times: Mapping[str, float], contenders: Sequence[Contender]) -> dict[str, float]:
    ratios = {}
    there = [one for one in contenders if one.name in times]
    for mine in (one for one in there if one.ours):
        others = [
            times[one.name] for one in there if not one.ours and one.transport == mine.transport
        ]
        if others:
            ratios[mine.name] = times[mine.name] / min(others)
    return ratios


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text: microseconds per request, kicks per request behind the stroke."""
    contenders = list(dict.fromkeys(name for row in rows for name in row.microseconds))
    rated = list(dict.fromkeys(name for row in rows for name in row.ratios))
    over_mmio = list(dict.fromkeys(name for row in rows for name in row.over_mmio))
    titles = [f"{name}, ratio" for name in rated] + [f"{name} / mmio" for name in over_mmio]
    lines = [_line("us per request / kicks", [*contenders, *titles])]
    for row in rows:
        cells = [_cell(row, contender) for contender in contenders]
        ratios = [_ratio(row.ratios, name) for name in rated]
        ratios += [_ratio(row.over_mmio, name) for name in over_mmio]
        lines.append(_line(row.name, [*cells, *ratios]))
    return "\n".join(lines)


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:28}" + "".join(f"{cell:>24}" for cell in cells)


def _cell(row: Row, contender: str) -> str:
    if contender not in row.microseconds:
        return "-"
    return f"{row.microseconds[contender]:.1f} / {row.kicks[contender]:.2f}"


def _ratio(ratios: Mapping[str, float], name: str) -> str:
    return f"{ratios[name]:.2f}" if name in ratios else "-"


def as_json(rows: Sequence[Row], host: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stored of a comparison: the host, and each workload's figures."""
    return {
        "host": dict(host),
        "workloads": [
            {
                "name": row.name,
                "microseconds": _rounded(row.microseconds),
                "kicks": _rounded(row.kicks),
                "ratios": _rounded(row.ratios),
                "over_mmio": _rounded(row.over_mmio),
            }
            for row in rows
        ],
    }


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}
