"""Fuzzes all targets for some time: ``python -m tests.fuzz.run --seconds 60``.

Two targets run at a time, each in a process of its own with a fair share of the time. What a run
adds to a corpus stays in ``tests/fuzz/grown``, where the next run goes on; inputs that break a
promise are stored in ``tests/fuzz/findings``, and the exit status is 1.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.guard import Guard
from tests.fuzz.targets import TARGETS, load_target

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# The guard finds what hangs, in processor time; libFuzzer's time is the wall's, so it is generous.
LIMITS = (
    *("-timeout=600", "-report_slow_units=600", "-rss_limit_mb=1024", "-max_len=4096"),
    "-print_final_stats=1",
)
# The peak of memory that Linux tells of a process begins with that of the one which started it:
# the test suite, perhaps, with more than the limit. A shell in between has little.
OF_ITS_OWN = ("sh", "-c", '"$@"; exit "$?"', "sh")
EXCEPTION = re.compile(r"=== Uncaught Python exception: ===\n(.*?)\n==", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Report:
    """What fuzzing one target gave: counts, seconds, peak memory in MiB, and stored findings."""

    target: str
    executions: int
    seconds: int
    corpus: int
    peak_mib: int
    findings: tuple[Path, ...]
    reason: str

    @property
    def failed(self) -> bool:
        """Whether something was found, or the fuzzer itself broke."""
        return bool(self.findings or self.reason)

    def line(self) -> str:
        """Return one line for a person."""
        rate = self.executions / max(self.seconds, 1)
        return (
            f"{self.target:15} {self.executions:>10} executions {self.seconds:>6} s {rate:>7.0f}/s"
            f" {self.corpus:>5} in corpus {self.peak_mib:>5} MiB {len(self.findings)} findings"
        )


def fuzz(target: str, seconds: int, *, findings: Path, grown: Path) -> Report:
    """Fuzz one target for some seconds, in a process of its own."""
    corpus, mine = HERE / "corpus" / target, grown / target
    mine.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    before = set(findings.iterdir())
    folders = [str(mine), *([str(corpus)] if corpus.is_dir() else [])]
    prefix = f"-artifact_prefix={findings}/{target}-"
    child_of_ours = (sys.executable, "-m", "tests.fuzz.child", target)
    command = [*OF_ITS_OWN, *child_of_ours, *folders, *LIMITS, prefix]
    with tempfile.TemporaryFile() as log:
        child = subprocess.run(
            [*command, f"-max_total_time={seconds}"], cwd=ROOT, stdout=log, stderr=log, check=False
        )
        log.seek(0)
        text = log.read().decode(errors="replace")
    new = (path for path in findings.glob(f"{target}-*") if path not in before)
    found = tuple(sorted(new))
    reason = _reason(text) if child.returncode or found else ""
    return _report(target, text, found, reason)


def _report(target: str, text: str, found: tuple[Path, ...], reason: str) -> Report:
    executions = _number(r"stat::number_of_executed_units:\s*(\d+)", text)
    rate = _number(r"stat::average_exec_per_sec:\s*(\d+)", text)
    seconds = _number(r"runs in (\d+) second", text) or executions // max(rate, 1)
    corpus = _number(r"corp: (\d+)/", text)
    peak = _number(r"stat::peak_rss_mb:\s*(\d+)", text)
    return Report(target, executions, seconds, corpus, peak, found, reason)


def _reason(text: str) -> str:
    """Return the exception that libFuzzer met, or the end of what it said."""
    exception = EXCEPTION.search(text)
    return exception[1].strip() if exception else "\n".join(text.splitlines()[-15:])


def _number(pattern: str, text: str) -> int:
    """Return the last number that a pattern finds in the log of libFuzzer, 0 for none."""
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def run(targets: Sequence[str], seconds: int, jobs: int) -> list[Report]:
    """Fuzz the targets, ``jobs`` at a time, for ``seconds`` in all; prints each as it ends."""
    share = max(1, seconds * jobs // len(targets))
    reports = []
    with ThreadPoolExecutor(jobs) as pool:
        running = [
            pool.submit(fuzz, target, share, findings=HERE / "findings", grown=HERE / "grown")
            for target in targets
        ]
        for one in running:
            reports.append(one.result())
            show(reports[-1])
    return reports


def show(report: Report) -> None:
    """Print a report, and how to see each finding again."""
    print(report.line(), flush=True)
    if report.failed:
        print(report.reason)
    for path in report.findings:
        name = path.relative_to(ROOT)
        print(f"again: python -m tests.fuzz.run --replay {name} {report.target}", flush=True)


def replay(target: str, path: Path) -> None:
    """Run one stored input, without a fuzzer; raises what it raises."""
    Guard(load_target(target))(path.read_bytes())
    print(f"{target}: {path.name} breaks no promise")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("targets", nargs="*", default=TARGETS, metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input of a target")
    options = parser.parse_args(arguments)
    if options.replay:
        replay(options.targets[0], options.replay)
        return 0
    if find_spec("atheris") is None:
        print("atheris is not installed: pip install --editable '.[fuzz]'", file=sys.stderr)
        return 2
    reports = run(options.targets, options.seconds, options.jobs)
    total, findings = sum(r.executions for r in reports), sum(len(r.findings) for r in reports)
    print(f"{total} executions, {findings} findings")
    return 1 if any(report.failed for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
