"""``make bench-peers``: run the same guest under our VMM and under QEMU, in turn, and compare.

Prints a table, and writes it, the figures and a picture to ``tests/perf/results``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.perf.peers import host
from tests.perf.peers.comparison import Row, as_json, compare, table
from tests.perf.peers.contender import CONTENDERS, Contender, Job
from tests.perf.peers.guest import bench_kernel, write_image
from tests.perf.peers.plot import plot, title_of
from tests.perf.peers.workload import WORKLOADS, GuestFailed, Measurement, Workload
from virtio.errors import ConfigurationError
from vmm.image import Progress, ProgressLine
from vmm.image.debian import ensure

IMAGE_BYTES = 256 << 20
RESULTS = Path(__file__).parent.parent / "results"


def main() -> int:
    """Measure, compare, tell; 0 unless something failed."""
    options = _options()
    try:
        with closing(ProgressLine(sys.stderr)) as progress:
            return _measure(options, progress)
    except (ConfigurationError, GuestFailed) as error:
        print(f"bench-peers: {error}", file=sys.stderr)
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times that each of them runs (5)")
    parser.add_argument(
        "--workloads", default="", metavar="REGEX", help="only those with such a name"
    )
    parser.add_argument(
        "--contenders", default="", metavar="REGEX", help="only those with such a name"
    )
    parser.add_argument(
        "--timeout", type=float, default=120.0, metavar="SECONDS", help="for one run (120)"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FOLDER", help="where files are written"
    )
    return parser.parse_args()


def _measure(options: argparse.Namespace, progress: Progress) -> int:
    workloads = [one for one in WORKLOADS if re.search(options.workloads, one.name)]
    chosen = [one for one in CONTENDERS if re.search(options.contenders, one.name)]
    contenders = [one for one in chosen if _is_there(one, progress)]
    if options.rounds < 1 or not workloads or not contenders:
        raise ConfigurationError("nothing to measure: no round, no workload or no contender")
    about = host.describe(contenders, options.rounds)
    rounds = _rounds(contenders, workloads, options, progress)
    rows = compare(rounds, contenders, host.tsc_khz())
    _publish(rows, about, options.results)
    return 0


def _is_there(contender: Contender, progress: Progress) -> bool:
    try:
        ensure(contender.needs or {}, f"{contender.name}, to compare with,", progress)
    except ConfigurationError as error:
        print(f"bench-peers: {error}; going on without it", file=sys.stderr)
        return False
    return True


def _rounds(
    contenders: list[Contender],
    workloads: list[Workload],
    options: argparse.Namespace,
    progress: Progress,
) -> dict[str, list[list[Measurement]]]:
    rounds: dict[str, list[list[Measurement]]] = {one.name: [] for one in contenders}
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as folder:
        image = Path(folder, "disk.img")
        write_image(image, IMAGE_BYTES)
        command_line = " ".join(workload.word for workload in workloads)
        job = Job(bench_kernel(progress), image, command_line)
        for number in range(options.rounds):
            for contender in contenders:
                progress(f"round {number + 1} of {options.rounds}", contender.name)
                rounds[contender.name].append(contender.run(job, options.timeout))
                # What was written must not reach the disk during the next one's turn.
                os.sync()
    return rounds


def _publish(rows: list[Row], about: dict[str, Any], folder: Path) -> None:
    title = title_of(about)
    text = f"{title}\n\n{table(rows)}\n"
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / f"{about['date']}-{host.short_kind()}"
    base.with_suffix(".txt").write_text(text)
    base.with_suffix(".json").write_text(json.dumps(as_json(rows, about), indent=1) + "\n")
    try:
        plot({row.name: row.ratios for row in rows}, title, base.with_suffix(".svg"))
    except ImportError:
        print("bench-peers: no picture without matplotlib: pip install 'pyvmm[bench]'")
    print(f"written to {base}.*")


if __name__ == "__main__":
    sys.exit(main())
