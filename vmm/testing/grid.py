"""The grid at the end of a run: what became of each test under each kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

_PROPERTY: Final = "guest kernels"


class KernelGrid:
    """Gathers the reports of tests that were made for one kernel of several; a plugin of pytest.

    With pytest-xdist it does so in the process that has the reports of all workers.
    """

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], str] = {}
        self._rows: dict[str, None] = {}
        self._kernels: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the report of a phase; an attempt that is made again begins with its set-up."""
        if (cell := getattr(report, "guest_cell", None)) is None:
            return
        row, kernel = cell
        self._rows[row] = self._kernels[kernel] = None
        before = "" if report.when == "setup" else self._cells.get((row, kernel), "")
        failed = before in ("FAIL", "error")
        self._cells[row, kernel] = before if failed else _became(report, before)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show the grid."""
        if self._cells:
            terminalreporter.section("guest kernels")
            for line in self.lines():
                terminalreporter.write_line(line)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Put the grid into the file of ``--junit-xml``, as properties of the run."""
        from _pytest.junitxml import xml_key

        xml: Any = session.config.stash.get(xml_key, None)
        if xml is not None:
            for name, value in self.properties():
                xml.add_global_property(name, value)

    def lines(self) -> Iterator[str]:
        """Yield a head and a line for each test, in the order in which they ran."""
        width = max(map(len, self._rows))
        widths = [max(len(one), 5) for one in self._kernels]
        for name, cells in (("", list(self._kernels)), *self._table()):
            columns = [f"{cell:<{size}}" for cell, size in zip(cells, widths, strict=True)]
            yield "  ".join([f"{name:<{width}}", *columns]).rstrip()

    def properties(self) -> Iterator[tuple[str, str]]:
        """Yield a property for each test, for JUnit."""
        for row, cells in self._table():
            pairs = zip(self._kernels, cells, strict=True)
            told = [f"{kernel}={cell}" for kernel, cell in pairs if cell]
            yield f"{_PROPERTY}: {row}", " ".join(told)

    def _table(self) -> Iterator[tuple[str, list[str]]]:
        for row in self._rows:
            yield row, [self._cells.get((row, kernel), "") for kernel in self._kernels]


def _became(report: pytest.TestReport, before: str) -> str:
    if report.failed:
        return "FAIL" if report.when == "call" else "error"
    expected_to_fail = hasattr(report, "wasxfail")
    if report.skipped:
        return "xfail" if expected_to_fail else "skip"
    if report.when != "call":
        return before
    return "xpass" if expected_to_fail else "pass"
