"""Options and order of the test suite as a whole."""

import gc
import signal
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.order import boots_linux, place
from virtio import engine
from vmm.image.kernel import cached_kernel

if TYPE_CHECKING:
    from xdist.remote import Producer

    from tests.sharing import InOrder

# How long an example takes depends on what else the host does.
hypothesis.settings.register_profile("timeless", deadline=None)
hypothesis.settings.load_profile("timeless")

HERE = Path(__file__).parent
COVERAGE_TEST = HERE / "test_coverage.py"
SHARE_MIN = 0.05
SUSPENDED_SECONDS = 0.005


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--profile",
        choices=("devel", "ci"),
        default="ci",
        help="for tests/test_coverage.py: devel accepts and writes a higher coverage, ci does not",
    )
    parser.addoption(
        "--tries",
        type=int,
        default=3,
        metavar="N",
        help="how often tests/guest/test_linux_snapshot.py saves a guest under block load",
    )
    parser.addoption(
        "--until",
        type=float,
        metavar="TIME",
        help="skip what might not end before TIME, in seconds of `date +%%s`, and say so",
    )


@pytest.fixture
def nothing_to_collect() -> None:
    """Let go what other tests have left, for tests that count what the process holds."""
    gc.collect()


@pytest.fixture
def python_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Python alone serve the rings, for tests that look over its shoulder."""
    monkeypatch.setattr(engine, "_chosen", "python")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the measurement of coverage to those who name it: it runs the other tests again."""
    named = any(COVERAGE_TEST.name in argument for argument in config.args)
    return True if collection_path == COVERAGE_TEST and not named else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "InOrder | None":
    """Divide the tests among processes as :mod:`tests.sharing` does, unless ``--dist`` is given."""
    if config.getoption("dist") != "load":
        return None
    from tests.sharing import InOrder

    return InOrder(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what fails fastest first, and skip what boots a Linux where there is no kernel."""
    items.sort(key=place)
    linux = [item for item in items if boots_linux(item)]
    if linux and cached_kernel() is None:
        for item in linux:
            item.add_marker(pytest.mark.skip(reason="the guest kernel is not built: make image"))


def _limit(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0] if marker else item.config.getini("timeout"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what would, at its time limit or on a host that hardly runs, end after ``--until``."""
    until = item.config.getoption("until")
    if until is not None and time.time() + _limit(item) > until:
        pytest.skip(f"its {_limit(item):g} s at most are more than --until leaves")
    if until is not None and boots_linux(item) and _share_of_processor() < SHARE_MIN:
        pytest.skip("the host runs this machine under a twentieth of the time: no boot ends soon")


@cache
def _share_of_processor() -> float:
    """Return which part of ten seconds this process runs, though it never waits; from 0 to 1."""
    start = last = time.monotonic()
    suspended = 0.0
    while last < start + 10:
        now = time.monotonic()
        if now - last > SUSPENDED_SECONDS:
            suspended += now - last
        last = now
    return 1 - suspended / (last - start)


def pytest_configure() -> None:
    """Undo what nohup(1) or a shell's background job ignores: tests send these to children."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            interrupts = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if interrupts else signal.SIG_DFL)
