"""The pytest plugin: a fixture that gives each test a real Linux guest of its own.

    def test_kernel(guest):
        assert guest.run(["uname", "-s"]).stdout == "Linux\n"

Loaded by entry point wherever the package is installed, so it imports nothing until a test asks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vmm.testing.config import GuestConfig
    from vmm.testing.guest import Guest
    from vmm.testing.snapshots import SnapshotStore

_MARKER = (
    "guest(memory, cpus, cmdline, kernel, initrd, files, disks, devices, deadline, shared):"
    " the guest that the test wants, where it differs from the fixture guest_config"
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def guest_config() -> GuestConfig:
    """The guest that tests get unless a marker says more; override it in a conftest or module."""
    from vmm.testing.config import GuestConfig

    return GuestConfig()


@pytest.fixture
def guest(
    request: pytest.FixtureRequest, guest_config: GuestConfig, guest_snapshots: SnapshotStore
) -> Iterator[Guest]:
    """A booted Linux guest, restored for this test; skipped where there is no ``/dev/kvm``."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("needs a usable /dev/kvm")
    config = _marked(request, guest_config)
    if config.shared:
        shared: SharedGuests = request.getfixturevalue("_shared_guests")
        with _used(shared.get(config, guest_snapshots), request.node) as found:
            yield found
        return
    from vmm.testing.guest import Guest

    with Guest(guest_snapshots.get(config), config) as own, _used(own, request.node):
        yield own


@contextmanager
def _used(guest: Guest, item: pytest.Item) -> Iterator[Guest]:
    """Let a test use a guest for as long as its deadline; the guest must outlive that."""
    item.stash[_GUEST] = guest
    try:
        with guest.limited():
            yield guest
        if item.stash.get(_FAILED, None) is None:
            guest.check()
    except Exception:
        item.stash[_LAST_REPORT] = guest.report()
        raise
    finally:
        del item.stash[_GUEST]


@pytest.fixture(scope="session")
def guest_snapshots() -> Iterator[SnapshotStore]:
    """The snapshots of booted guests that this run uses."""
    from vmm.testing.snapshots import SnapshotStore

    store = SnapshotStore()
    yield store
    store.close()


@pytest.fixture(scope="module")
def _shared_guests() -> Iterator[SharedGuests]:
    with SharedGuests() as guests:
        yield guests


class SharedGuests(ExitStack):
    """The guests that the tests of a module share, one for each configuration."""

    def __init__(self) -> None:
        super().__init__()
        self._guests: list[Guest] = []

    def get(self, config: GuestConfig, snapshots: SnapshotStore) -> Guest:
        """Return the guest of a configuration, another one after the last has ended."""
        from vmm.testing.guest import Guest

        for one in self._guests:
            if one.config == config and one.machine.ending is None:
                return one
        self._guests.append(self.enter_context(Guest(snapshots.get(config), config)))
        return self._guests[-1]


_GUEST = pytest.StashKey["Guest"]()
_LAST_REPORT = pytest.StashKey[str]()
_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Attach the guest's report to that of a test that failed."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
        guest = item.stash.get(_GUEST, None)
        text = item.stash.get(_LAST_REPORT, None) if guest is None else guest.report()
        if text is not None:
            report.sections.append(("guest", text))
    return report


def _marked(request: pytest.FixtureRequest, config: GuestConfig) -> GuestConfig:
    """Return the configuration as the markers change it, the closest one last."""
    allowed = [one.name for one in fields(config)]
    for marker in reversed(list(request.node.iter_markers("guest"))):
        if marker.args or not marker.kwargs.keys() <= set(allowed):
            wrong = ", ".join([*map(repr, marker.args), *(marker.kwargs.keys() - set(allowed))])
            raise pytest.UsageError(f"marker guest: {wrong}: must be one of {', '.join(allowed)}")
        config = replace(config, **marker.kwargs)
    return config
