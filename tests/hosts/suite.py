"""``python -m tests.hosts.suite FOLDER``: the tests of :mod:`tests.hosts.selection`, on this host.

JUnit XML and the data of coverage go to the folder. It is what runs in the hardware host, and right
here where this is one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.hosts.selection import CHOSEN, LEFT_OUT, SHORT
from tests.test_coverage import PACKAGES, SETTINGS

ROOT: Final = Path(__file__).parents[2]
REPORT: Final = "junit.xml"
COVERAGE: Final = "coverage"
_WORKERS: Final = "patch = subprocess\n"
_OPTIONS: Final = (
    *("-q", "-n", "2", "-rfEs", "--color=no", "-p", "no:cacheprovider"),
    *("-p", "tests.hosts.plugin"),
)


def command(folder: Path, *, short: bool, until: float | None) -> list[str]:
    """Return the command that runs the tests, under the settings in the folder."""
    tracer = [sys.executable, "-m", "coverage", "run", f"--rcfile={folder / 'settings'}"]
    options = [*_OPTIONS, f"--junit-xml={folder / REPORT}"]
    options += [f"--ignore={path}" for path in LEFT_OUT]
    if until is not None:
        options.append(f"--until={until:.0f}")
    return [*tracer, "-m", "pytest", *options, *(SHORT if short else CHOSEN)]


def run_here(folder: Path, *, short: bool, until: float | None) -> int:
    """Run the tests on this host, and return the status of pytest."""
    folder.mkdir(parents=True, exist_ok=True)
    data, settings = folder / COVERAGE, folder / "settings"
    settings.write_text(SETTINGS.format(data=data, packages=", ".join(PACKAGES)) + _WORKERS)
    status = _ended(command(folder, short=short, until=until))
    combine = [sys.executable, "-m", "coverage", "combine", "-q", f"--rcfile={settings}"]
    subprocess.run(combine, cwd=ROOT)
    return status


def _ended(command: Sequence[str]) -> int:
    """Run a command to its end, which an interrupt brings: pytest then tells what it has."""
    with subprocess.Popen(command, cwd=ROOT) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


def main(arguments: Sequence[str]) -> int:
    """Parse the command line and run the tests."""
    parser = argparse.ArgumentParser(prog="python -m tests.hosts.suite", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--until", type=float, metavar="TIME")
    options = parser.parse_args(arguments)
    return run_here(Path(os.path.abspath(options.folder)), short=options.short, until=options.until)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
