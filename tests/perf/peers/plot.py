"""The comparison as a picture: a line for each workload, a dot for each of ours.

``python -m tests.perf.peers.plot RESULTS.json`` draws the picture of stored results again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

MOST: Final = 4.0
"""Where the axis ends: dots beyond stand at its end, with their figure."""

Ratios = Mapping[str, Mapping[str, float]]
"""By workload and contender of ours: its time over that of the better one of the others."""


def plot(ratios: Ratios, title: str, path: Path) -> None:
    """Draw the ratios into an SVG file; raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "pyvmm", "font.size": 9}
    from matplotlib import pyplot

    contenders = list(dict.fromkeys(name for row in ratios.values() for name in row))
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.26 * len(ratios)), layout="constrained")
    axes.axvspan(0, 1, color="#e8f4e8")
    axes.axvline(1, color="#555", linewidth=1)
    axes.hlines(range(len(ratios)), 0, MOST, color="#ddd", linewidth=0.8)
    # The first contender is drawn last, so that it is on top where dots meet.
    for number, name in reversed(list(enumerate(contenders))):
        places = [(row[name], y) for y, row in enumerate(ratios.values()) if name in row]
        shown = [min(x, MOST) for x, _ in places]
        axes.scatter(shown, [y for _, y in places], 30, f"C{number}", label=name, zorder=3)
        for x, y in places:
            if x > MOST:
                axes.annotate(f"{x:.1f} →", (MOST, y), (4, -3), textcoords="offset points")
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.invert_yaxis()
    axes.set_xlim(0, MOST)
    axes.set_xticks([0, 0.5, 1, 1.5, 2, 3, 4], ["0", "½", "QEMU", "1½", "2", "3", "4 times"])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(
        f"Time per request over that of QEMU's better configuration\n{title}", fontsize=9
    )
    handles, names = axes.get_legend_handles_labels()
    dots = [handles[names.index(name)] for name in contenders]
    figure.legend(dots, contenders, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main(results: Path) -> None:
    """Draw the picture of a file of results beside it."""
    stored = json.loads(results.read_text())
    ratios = {one["name"]: one["ratios"] for one in stored["workloads"]}
    plot(ratios, title_of(stored["host"]), results.with_suffix(".svg"))


def title_of(host: Mapping[str, object]) -> str:
    """Return where and when it was measured, from what is stored about the host."""
    return f"{host['kind']}, {host['processors']} processors, {host['date']}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
