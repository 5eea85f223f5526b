"""``python -m tests.perf.sandbox``: what the sandbox costs, with it and without it in turn.

The aim is at most 2 %: of the processor time that an exit takes, of the time of a block request of
4 KiB by the native data path, and of the processor time of the process that serves these. Every
round measures all of it with both, the one that comes first by turns; a round's two figures are
compared, and the median of these ratios is told with the quartiles.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Final

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
MODES: Final[tuple[SandboxMode, SandboxMode]] = ("off", "require")

Figures = dict[str, float]


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
    print(f"{'':34}{'without':>10}{'with':>10}{'ratio':>9}   quartiles")
    for name in found["off"][0]:
        without, within = ([one[name] for one in found[mode]] for mode in MODES)
        ratios = [b / a for a, b in zip(without, within, strict=True)]
        low, middle, high = quantiles(ratios) if rounds > 1 else ratios * 3
        print(
            f"{name:34}{median(without):10.2f}{median(within):10.2f}{middle:9.3f}"
            f"   {low:.3f} to {high:.3f}"
        )


def _measured(
    rounds: int, figures: Callable[[SandboxMode], Figures]
) -> dict[SandboxMode, list[Figures]]:
    found: dict[SandboxMode, list[Figures]] = {mode: [] for mode in MODES}
    for number in range(rounds):
        for mode in MODES if number % 2 else reversed(MODES):
            found[mode].append(figures(mode))
    return found


def _figures(job: Job, khz: int, mode: SandboxMode) -> Figures:
    """Return microseconds: of processor time for an exit, of the clock for a request."""

    def command(job: Job) -> list[str]:
        return [*ours(job, "native"), f"--sandbox={mode}"]

    figures = {"port write, processor time, us": port_exit(sandbox=mode, clock="processor")}
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
