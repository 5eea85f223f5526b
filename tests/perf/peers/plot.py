"""The comparison as a picture: a bar for each contender, by workload."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.perf.peers.comparison import Row


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw the rows into an SVG file; raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    contenders = list(dict.fromkeys(name for row in rows for name in row.microseconds))
    height = 0.8 / len(contenders)
    figure, axes = pyplot.subplots(figsize=(9, 1.5 + 0.45 * len(rows)), layout="constrained")
    for number, contender in enumerate(contenders):
        places = [index + (number + 0.5) * height - 0.4 for index in range(len(rows))]
        times = [row.microseconds.get(contender, 0) for row in rows]
        axes.barh(places, times, height, label=contender)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("microseconds per request (less is better)")
    axes.set_title(title, fontsize="medium")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
