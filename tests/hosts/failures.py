"""A plugin of pytest that tells a failure at once: a run that is cut off has told what it found."""

from __future__ import annotations

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Print the name of a test that failed, and its last line."""
    if report.failed:
        last = report.longreprtext.strip().rpartition("\n")[2]
        print(f"\nfailed: {report.nodeid}: {last}", flush=True)
