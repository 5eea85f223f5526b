"""``python -m tests.perf.sandbox``: what the sandbox costs, with it and without it in turn.

The aim is at most 2 %: of the processor time that an exit takes, of the time of a block request of
4 KiB by the native data path, and of the processor time of the process that serves these. Every
round measures all of it with both, the one that comes first by turns; a round's two figures are
compared, and the median of these ratios is told with the quartiles.

A filter of system calls costs something on each call, whatever it says: the kernel leaves its short
way. Requests are measured with a filter of one instruction too, which allows everything, so that
the last column tells what is ours of the cost, and what any filter would have cost.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Final, Literal, get_args

from tests.perf.exits import port_exit
from tests.perf.peers.contender import Contender, Job, ours
from tests.perf.peers.guest import bench_kernel, write_image
from tests.perf.peers.host import tsc_khz
from tests.perf.peers.workload import Workload
from vmm.sandbox.mode import SandboxMode
from vmm.x86 import host_kind

IMAGE_BYTES: Final = 64 << 20
RUN_SECONDS: Final = 120.0
BLOCK: Final = (
    Workload("blk-read", 4096, 1, 20_000, random=True),
    Workload("blk-read", 4096, 32, 200_000, random=True),
)
UNDER_ANY_FILTER: Final = """
import os, sys
from vmm.sandbox.host import set_filter
from vmm.sandbox.policy import ALLOW
from vmm.sandbox.program import INSTRUCTION, RETURN
set_filter(INSTRUCTION.pack(RETURN, 0, 0, ALLOW), all_threads=True)
os.execv(sys.argv[1], sys.argv[1:])
"""
EXIT: Final = "port write, processor time, us"

Way = Literal["without", "any filter", "with"]
Figures = dict[str, float]
Found = dict[Way, list[Figures]]

WAYS: Final[tuple[Way, ...]] = get_args(Way)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="sandbox", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="how often each is measured (10)")
    rounds = parser.parse_args().rounds
    print(f"host: {host_kind()}")
    with tempfile.TemporaryDirectory(prefix="bench-sandbox-") as folder:
        image = Path(folder, "disk.img")
        write_image(image, IMAGE_BYTES)
        words = " ".join(one.word for one in BLOCK)
        job = Job(bench_kernel(lambda *line: None), image, words)
        found = _measured(rounds, partial(_figures, job, tsc_khz()))
    print(f"{'':32}{'without':>10}{'with':>10}{'ratio':>9}   {'quartiles':18}of any filter's")
    for name in found["with"][0]:
        print(_row(name, found))


def _row(name: str, found: Found) -> str:
    without, within = ([one[name] for one in found[way]] for way in ("without", "with"))
    middle, spread = _ratio(without, within)
    row = f"{name:32}{median(without):10.2f}{median(within):10.2f}{middle:9.3f}   {spread:18}"
    if name == EXIT:
        return row
    middle, spread = _ratio([one[name] for one in found["any filter"]], within)
    return f"{row}{middle:.3f}, {spread}"


def _ratio(before: Sequence[float], after: Sequence[float]) -> tuple[float, str]:
    """Return the median of the rounds' ratios, and their quartiles as text."""
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    low, middle, high = quantiles(ratios) if len(ratios) > 1 else ratios * 3
    return middle, f"{low:.3f} to {high:.3f}"


def _measured(rounds: int, figures: Callable[[Way], Figures]) -> Found:
    found: Found = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS if number % 2 else reversed(WAYS):
            found[way].append(figures(way))
    return found


def _figures(job: Job, khz: int, way: Way) -> Figures:
    """Return microseconds: of processor time for an exit, of the clock for a request."""
    mode: SandboxMode = "require" if way == "with" else "off"

    def command(job: Job) -> list[str]:
        run = [*ours(job, "native"), f"--sandbox={mode}"]
        return [sys.executable, "-c", UNDER_ANY_FILTER, *run] if way == "any filter" else run

    figures: Figures = {}
    if way != "any filter":
        figures[EXIT] = port_exit(sandbox=mode, clock="processor")
    before = _children_seconds()
    for one in Contender("vmm", command, good_status=0).run(job, RUN_SECONDS):
        figures[f"{one.workload.name}, us"] = one.cycles * 1000 / khz
    figures["both, processor time, s"] = _children_seconds() - before
    os.sync()
    return figures


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
