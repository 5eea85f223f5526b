"""These examples wait for their first run against a real guest, and are skipped until then."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    reason = (
        "vmm.testing has not been run against a Linux guest yet, and its plugin is not registered"
    )
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.skip(reason=reason))
