"""Options of the test suite as a whole."""

import signal
from pathlib import Path

import pytest

COVERAGE_TEST = Path(__file__).with_name("test_coverage.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--profile",
        choices=("devel", "ci"),
        default="ci",
        help="for tests/test_coverage.py: devel accepts and writes a higher coverage, ci does not",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the measurement of coverage to those who name it: it runs the other tests again."""
    named = any(COVERAGE_TEST.name in argument for argument in config.args)
    return True if collection_path == COVERAGE_TEST and not named else None


def pytest_configure() -> None:
    """Undo what nohup(1) or a shell's background job ignores: tests send these to children."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
