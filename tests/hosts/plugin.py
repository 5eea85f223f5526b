"""A plugin of pytest for a long run: failures are told at once, and its workers are measured.

A run that is cut off has told what it found. The programs that tests start are not measured: those
in a sandbox may open no file to write what they ran into, and would say so on the standard error.
"""

from __future__ import annotations

import os
from typing import Final

import pytest

_MEASURED: Final = "COVERAGE_PROCESS_CONFIG"  # coverage's: what starts with it, is measured


def pytest_configure(config: pytest.Config) -> None:
    """Let a worker of pytest-xdist, which coverage measures, start programs that it does not."""
    if hasattr(config, "workerinput"):
        os.environ.pop(_MEASURED, None)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Print the name of a test that failed, and its last line."""
    if report.failed:
        last = report.longreprtext.strip().rpartition("\n")[2]
        print(f"\nfailed: {report.nodeid}: {last}", flush=True)
