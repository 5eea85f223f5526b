"""Runs the tests of the specification and tells which items hold: ``make conformance``.

It prints a table, writes a page for a browser, and rewrites ``CONFORMANCE.md``. Its exit status is
1 when an item has no test and no reason, when a test failed, or when a test names an unknown item.
With ``--check`` it runs no test, and compares ``CONFORMANCE.md`` with the tests that there are.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.spec import report
from tests.spec.catalogue import Case, Catalogue, load

ROOT = Path(__file__).parents[2]
MARKDOWN = Path(__file__).with_name("CONFORMANCE.md")
HTML = ROOT / "build" / "conformance.html"
TESTS = ("tests/unit", "tests/spec")


class Recorder:
    """A pytest plugin: keeps the tests that name items, and notes what becomes of them."""

    def __init__(self) -> None:
        self.cases: dict[str, Case] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drop the other tests."""
        items[:] = [item for item in items if self._take(item)]

    def _take(self, item: pytest.Item) -> bool:
        named = {str(name) for mark in item.iter_markers("spec") for name in mark.args}
        if named:
            case = self._case(item.nodeid)
            case.items |= named
            case.number += 1
        return bool(named)

    def _case(self, nodeid: str) -> Case:
        function = nodeid.partition("[")[0]
        path, _, name = function.partition("::")
        return self.cases.setdefault(function, Case(path, name))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note an outcome; setup and teardown count only when they are not what they should be."""
        if report.when == "call" or report.outcome != "passed":
            case = self._case(report.nodeid)
            # An expected failure is an item that does not hold.
            case.outcomes.append("failed" if hasattr(report, "wasxfail") else report.outcome)
            if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
                case.reason = report.longrepr[2].removeprefix("Skipped: ")


def run(options: Sequence[str]) -> tuple[Catalogue, list[str]]:
    """Run pytest over the tests that name items; returns the items with them, and what is wrong.

    Ends the program when pytest itself could not do it, as after an error in a file of tests.
    """
    recorder = Recorder()
    # Run as a program, this package was imported before pytest could rewrite its assertions.
    common = ["-q", "--no-header", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    common += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    paths = [str(ROOT / path) for path in TESTS]
    status = pytest.main([*common, *options, *paths], plugins=[recorder])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        sys.exit(f"pytest ended with {status!r}, see above; nothing was written")
    catalogue = load()
    return catalogue, catalogue.assign(recorder.cases.values())


def check() -> list[str]:
    """Compare the committed table with the tests that there are; returns what is wrong."""
    catalogue, problems = run(["--collect-only", "-qq"])
    if not MARKDOWN.exists() or MARKDOWN.read_text(encoding="utf-8") != report.markdown(catalogue):
        problems.append(f"{MARKDOWN.relative_to(ROOT)} is not current: run make conformance")
    return problems


def write(catalogue: Catalogue, html: Path) -> None:
    """Write the table for the repository and the page for a browser."""
    MARKDOWN.write_text(report.markdown(catalogue), encoding="utf-8")
    html.parent.mkdir(parents=True, exist_ok=True)
    html.write_text(report.html(catalogue), encoding="utf-8")


def main() -> int:
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Tell which items of VIRTIO 1.4 hold.")
    parser.add_argument("--check", action="store_true", help="only compare CONFORMANCE.md")
    parser.add_argument("--html", type=Path, default=HTML, help="where the page goes")
    arguments = parser.parse_args()
    if arguments.check:
        problems = check()
    else:
        catalogue, problems = run(["--tb=short"])
        write(catalogue, arguments.html)
        print(report.terminal(catalogue, colour=sys.stdout.isatty()))
        print(f"The same for a browser: {arguments.html}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
