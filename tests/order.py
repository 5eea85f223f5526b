"""The order of the tests: what fails fastest first, what boots a Linux last."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOLDERS = ("unit", "spec", "fuzz", "perf", "guest", "workflow", "examples")

ONE_BY_ONE = (
    "tests/guest/test_linux_boot.py",
    "tests/guest/test_linux_rings.py",
    "tests/examples/",
)
"""Where each test has a Linux guest of its own; the tests of other files may share theirs."""


def place(item: pytest.Item) -> tuple[bool, bool, bool, int]:
    """Return a key to sort tests by.

    Among those that boot a Linux, whole files come before single tests, which are shorter, so that
    two processes end at nearly the same time. Guests with several processors come last, when
    nothing is left to run beside them: on a busy host they wait for each other's locks.
    """
    alone = item.get_closest_marker("alone") is not None
    single = item.nodeid.startswith(ONE_BY_ONE)
    return boots_linux(item), alone, boots_linux(item) and single, _rank(item.path)


def boots_linux(item: pytest.Item) -> bool:
    """Return whether a test needs the guest kernel."""
    return item.path.name.startswith(("test_linux_", "test_readme")) or (
        item.path.parent in (HERE / "examples", HERE / "workflow")
    )


def _rank(path: Path) -> int:
    folder = path.relative_to(HERE).parts[0] if path.is_relative_to(HERE) else ""
    return FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS)
