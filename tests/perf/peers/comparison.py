"""Medians over the rounds, and how our time compares with the best of the others'."""

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

    ``ratios`` has, for each of ours, its time over that of the best of the others; it is empty
    without others.
    """

    name: str
    microseconds: dict[str, float]
    kicks: dict[str, float]
    ratios: dict[str, float]


def compare(
    rounds: Mapping[str, Sequence[Sequence[Measurement]]],
    contenders: Iterable[Contender],
    tsc_khz: int,
) -> list[Row]:
    """Return a row for each workload, from the rounds of each contender by its name."""
    ours = {contender.name for contender in contenders if contender.ours}
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
        rows.append(Row(name, times, _medians(kicks, name, 1), _ratios(times, ours)))
    return rows


def _medians(
    values: Mapping[tuple[str, str], list[float]], name: str, factor: float
) -> dict[str, float]:
    return {
        contender: statistics.median(found) * factor
        for (workload, contender), found in values.items()
        if workload == name
    }


def _ratios(times: Mapping[str, float], ours: set[str]) -> dict[str, float]:
    others = [time for name, time in times.items() if name not in ours]
    if not others:
        return {}
    return {name: time / min(others) for name, time in times.items() if name in ours}


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text: microseconds per request, kicks per request behind the stroke."""
    contenders = list(dict.fromkeys(name for row in rows for name in row.microseconds))
    rated = list(dict.fromkeys(name for row in rows for name in row.ratios))
    titles = [f"{name}, ratio" for name in rated]
    lines = [_line("us per request / kicks", [*contenders, *titles])]
    for row in rows:
        cells = [_cell(row, contender) for contender in contenders]
        ratios = [f"{row.ratios[name]:.2f}" if name in row.ratios else "-" for name in rated]
        lines.append(_line(row.name, [*cells, *ratios]))
    return "\n".join(lines)


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:28}" + "".join(f"{cell:>21}" for cell in cells)


def _cell(row: Row, contender: str) -> str:
    if contender not in row.microseconds:
        return "-"
    return f"{row.microseconds[contender]:.1f} / {row.kicks[contender]:.2f}"


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
            }
            for row in rows
        ],
    }


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}
