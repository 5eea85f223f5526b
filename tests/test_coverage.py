"""Keeps line coverage from falling: against the figures in tests/coverage.

What runs is every test but those that boot a Linux; guests of a few instructions among them, so it
needs /dev/kvm. What the programs run that tests start is not counted: in a sandbox they may not
write it down. The tests of the queues run once more with Python alone serving the rings.

``--profile=devel`` accepts coverage that is equal or higher and writes the new figures;
``--profile=ci``, the default, accepts only equal, so that a change that raises coverage commits
the figures with it.

A figure is a whole percent, and what lies up to half a percent outside of it still counts as equal.
Which lines run depends a little on timing and on the host; by plain rounding a figure that happens
to be near a border would come out as either one from run to run.
"""

import math
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from coverage import Coverage

ROOT = Path(__file__).parents[1]
FIGURES = Path(__file__).with_name("coverage")
PACKAGES = ("virtio", "transport", "vmm")
BARE_METAL = ("endings", "vcpu", "cli", "io_threads", "snapshot", "snapshot_cli")
TESTS = ("tests/unit", "tests/spec", *(f"tests/guest/test_{name}.py" for name in BARE_METAL))
QUEUES = ("tests/unit/virtio/virtqueue",)
RUNS: tuple[tuple[dict[str, str], Sequence[str]], ...] = (
    ({}, TESTS),
    ({"PYVMM_ENGINE": "python"}, QUEUES),
)
SLACK_PERCENT = 0.5
TIMEOUT_SECONDS = 1800
SETTINGS = """\
[run]
data_file = {data}
source = {packages}
parallel = true
"""
HEADING = "# Lines that the tests run, in whole percent: make coverage writes them.\n"


def measure(directory: Path) -> dict[str, float]:
    """Run the tests; returns the percentage of lines of each package, and of all together."""
    from coverage import Coverage

    data, settings = directory / "data", directory / "settings"
    settings.write_text(SETTINGS.format(data=data, packages=", ".join(PACKAGES)))
    tracer = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}", "-m"]
    for variables, tests in RUNS:
        done = subprocess.run(
            [*tracer, "pytest", "-q", "-p", "no:cacheprovider", *tests],
            cwd=ROOT,
            env=os.environ | variables,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            output = f"{done.stdout[-4000:]}{done.stderr}"
            pytest.fail(f"the tests themselves fail:\n{output}", pytrace=False)
    measured = Coverage(data_file=str(data), config_file=str(settings))
    measured.combine([str(directory)])
    lines = {name: count_lines(measured, ROOT / name) for name in PACKAGES}
    lines["together"] = (sum(a for a, _ in lines.values()), sum(b for _, b in lines.values()))
    return {name: 100 * run / total for name, (run, total) in lines.items()}


def count_lines(measured: "Coverage", package: Path) -> tuple[int, int]:
    """Return how many statements of a package ran, and how many there are."""
    total = missing = 0
    for path in package.rglob("*.py"):
        _, statements, _, not_run, _ = measured.analysis2(str(path))
        total += len(statements)
        missing += len(not_run)
    return total - missing, total


def fallen(stored: Mapping[str, int], found: Mapping[str, float]) -> list[str]:
    """Return a line for each figure that is lower than it was."""
    low = {name: one for name, one in found.items() if one < stored.get(name, 0) - SLACK_PERCENT}
    return [f"{name}: {one:.2f} %, it was {stored[name]}: add tests" for name, one in low.items()]


def risen(stored: Mapping[str, int], found: Mapping[str, float]) -> list[str]:
    """Return a line for each figure that is higher than it was."""
    border = 1 + SLACK_PERCENT
    high = {name: one for name, one in found.items() if one >= stored.get(name, -2) + border}
    return [
        f"{name}: {one:.2f} %, {stored.get(name, 'nothing')} is stored: run make coverage"
        for name, one in high.items()
    ]


def renewed(stored: Mapping[str, int], found: Mapping[str, float]) -> str:
    """Return the content of the file with the figures found, where they are higher."""
    figures = {name: max(stored.get(name, 0), math.floor(one)) for name, one in found.items()}
    return HEADING + "".join(f"{name} = {figure}\n" for name, figure in figures.items())


def judge(profile: str, stored: Mapping[str, int], found: Mapping[str, float]) -> list[str]:
    """Return what is wrong with what was found; in ``devel`` keep what is better."""
    problems = fallen(stored, found)
    if profile == "ci":
        return problems + risen(stored, found)
    if not problems:
        FIGURES.write_text(renewed(stored, found), encoding="utf-8")
    return problems


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm")
@pytest.mark.timeout(TIMEOUT_SECONDS)
def test_coverage_does_not_fall(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    stored = tomllib.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}

    problems = judge(pytestconfig.getoption("profile"), stored, measure(tmp_path))

    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("found", "expected"),
    [(89.4, (1, 0)), (89.6, (0, 0)), (90.0, (0, 0)), (91.4, (0, 0)), (91.6, (0, 1))],
)
def test_half_a_percent_outside_of_a_figure_still_is_equal(
    found: float, expected: tuple[int, int]
) -> None:
    stored, measured = {"vmm": 90}, {"vmm": found}

    assert (len(fallen(stored, measured)), len(risen(stored, measured))) == expected


@pytest.mark.parametrize(("found", "figure"), [(89.6, 90), (90.99, 90), (91.0, 91), (93.7, 93)])
def test_a_new_figure_is_a_whole_percent_and_no_lower(found: float, figure: int) -> None:
    assert renewed({"vmm": 90}, {"vmm": found}).endswith(f"\nvmm = {figure}\n")


def test_what_has_no_figure_yet_is_new() -> None:
    assert len(risen({}, {"vmm": 0.0})) == 1
