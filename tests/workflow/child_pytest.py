"""Runs pytest as its users have it: in a folder of theirs, with nothing but installed packages."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

LONGEST_SECONDS = 1700
# Each test names those that it is about: another plugin's warnings are no finding.
PLUGINS = ("asyncio", "rerunfailures", "xdist", "timeout")

GENEROUS = """
import pytest

from vmm.testing import GuestConfig


@pytest.fixture
def guest_config():
    return GuestConfig(deadline=600)


@pytest.fixture(scope="session")
def session_guest_config():
    return GuestConfig(deadline=600)
"""
"""A conftest: a command may take many seconds where the guest's code is emulated."""


class Run(NamedTuple):
    """What became of each test, what pytest printed, and its exit status."""

    outcomes: dict[str, str]
    output: str
    status: int

    def report_of(self, test: str) -> str:
        """Return what pytest printed of a test that failed."""
        heading = rf"^_+ (?:ERROR at \w+ of )?{test} _+$"
        end = r"^(?:_{3,} .* _{3,}$|={3,})"
        found = re.search(rf"{heading}(.*?){end}", self.output, re.DOTALL | re.MULTILINE)
        assert found, self.output
        return found[1]


def run_pytest(
    folder: Path, *arguments: str, plugins: tuple[str, ...] = (), typed: str = ""
) -> Run:
    """Run pytest in a folder, with ``plugins`` and without the others, and ``typed`` as input."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    for other in sorted(set(PLUGINS) - set(plugins)):
        command += ["-p", f"no:{other}"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    result = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=environment,
        input=typed,
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
    )
    assert report.exists(), result.stdout + result.stderr
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        wrong = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcomes[case.attrib["name"]] = wrong[0] if wrong else "passed"
    return Run(outcomes, result.stdout + result.stderr, result.returncode)
