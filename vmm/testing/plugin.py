"""The pytest plugin: a fixture that gives each test a real Linux guest of its own.

    def test_kernel(guest):
        assert guest.run(["uname", "-s"]).stdout == "Linux\n"

Loaded by entry point wherever the package is installed, so it imports nothing until a test asks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from vmm.testing.attempt import Attempt

if TYPE_CHECKING:
    from vmm.testing.config import GuestConfig
    from vmm.testing.guest import Guest
    from vmm.testing.snapshots import SnapshotStore

_MARKER = (
    "guest(memory, cpus, cmdline, kernel, initrd, files, disks, devices, deadline, shared,"
    " sandbox): the guest that the test wants, where it differs from the fixture guest_config"
)
_SESSION_FIXTURE = "session_guest"

_ATTEMPT = pytest.StashKey[Attempt]()
_SESSION_GUEST = pytest.StashKey["Guest"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("pyvmm", "guests under KVM").addoption(
        "--guest-required",
        action="store_true",
        help="fail tests that want a guest where this host runs none, rather than skip them",
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
    """A booted Linux guest, restored for this test; skipped where this host runs no guest."""
    _begin(request.config)
    config = _marked(request, guest_config)
    attempt = request.config.stash[_ATTEMPT]
    with ExitStack() as own:
        if config.shared:
            shared: SharedGuests = request.getfixturevalue("_shared_guests")
            found = shared.find(config)
            if found is None:
                found = shared.add(_started(request.config, config, guest_snapshots, shared))
            else:
                attempt.begin_with(found)
        else:
            found = _started(request.config, config, guest_snapshots, own)
        with found.limited():
            yield found
        attempt.check(found)


@pytest.fixture(scope="session")
def session_guest_config() -> GuestConfig:
    """The guest that ``session_guest`` is; override it in a conftest."""
    from vmm.testing.config import GuestConfig

    return GuestConfig()


@pytest.fixture(scope="session")
def session_guest(
    request: pytest.FixtureRequest,
    session_guest_config: GuestConfig,
    guest_snapshots: SnapshotStore,
) -> Iterator[Guest]:
    """One guest for all tests of a run that ask for it, and for fixtures of any scope.

    Each test may use it for its configuration's deadline. After a test in which it ended it is
    made anew, and so is what other fixtures made of it.
    """
    _begin(request.config)
    stash = request.config.stash
    with ExitStack() as own:
        found = _started(request.config, session_guest_config, guest_snapshots, own)
        stash[_ATTEMPT].resources.enter_context(found.limited())
        stash[_SESSION_GUEST] = found
        own.callback(stash.__delitem__, _SESSION_GUEST)
        yield found


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

    def find(self, config: GuestConfig) -> Guest | None:
        """Return the guest of a configuration, unless it has ended."""
        alike = (one for one in self._guests if one.config == config)
        return next((one for one in alike if one.machine.ending is None), None)

    def add(self, guest: Guest) -> Guest:
        """Let further tests have this guest."""
        self._guests.append(guest)
        return guest


def _begin(config: pytest.Config) -> None:
    """Note that a test wants a guest, and end it here where the host runs none."""
    from vmm.x86 import kvm_fault

    config.stash[_ATTEMPT].has_guest = True
    if (fault := kvm_fault()) is None:
        return
    if config.getoption("--guest-required"):
        pytest.fail(f"--guest-required: {fault}", pytrace=False)
    pytest.skip(fault)


def _started(
    config: pytest.Config, wanted: GuestConfig, snapshots: SnapshotStore, resources: ExitStack
) -> Guest:
    """Start a guest, which ends when ``resources`` are closed; the first one of its kind boots."""
    from vmm.testing.boot import booting
    from vmm.testing.guest import Guest
    from vmm.testing.terminal import visible_progress
    from vmm.testing.time_limit import TimeLimit

    attempt = config.stash[_ATTEMPT]
    limit = TimeLimit(wanted.deadline)
    with visible_progress(config) as progress:
        limited = partial(booting, limit=limit, on_failure=attempt.add_text)
        snapshot = snapshots.get(wanted, limited, progress)
    guest = Guest(snapshot, wanted, limit)
    attempt.add_report(guest.report)
    return resources.enter_context(guest)


# Not wrappers, which would have a frame in the tracebacks of all tests that fail.


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin an attempt; a session's guest that has ended goes, for the fixture to make another."""
    attempt = item.config.stash[_ATTEMPT] = Attempt()
    guest = _session_guest_of(item)
    if guest is not None and guest.machine.ending is not None:
        for definition in item._fixtureinfo.name2fixturedefs[_SESSION_FIXTURE]:  # type: ignore[attr-defined]
            definition.finish(item._request)  # type: ignore[attr-defined]
    elif guest is not None:
        attempt.begin_with(guest)
        attempt.resources.enter_context(guest.limited())


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Fail a test in which the session's guest ended unasked."""
    guest = _session_guest_of(item)
    if guest is not None:
        item.config.stash[_ATTEMPT].check(guest)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Attach the guest's report to that of a test that failed, and show the test's frames alone."""
    attempt = item.config.stash.get(_ATTEMPT, None)
    if attempt is None or not attempt.has_guest:
        return (yield)
    if call.when == "teardown":
        attempt.resources.close()
    if call.excinfo is None:
        return (yield)
    from vmm.testing.frames import hide_own_frames, message_alone

    texts = attempt.reports()
    test_is_shown = hide_own_frames(call.excinfo, item.config)
    report = yield
    if report.failed:
        attempt.failed = True
        report.sections.extend(("guest", text) for text in texts)
        if not test_is_shown:
            report.longrepr = message_alone(call.excinfo)
    return report


def pytest_enter_pdb() -> None:
    """Stop the clocks: a person looks at the guest."""
    if (module := sys.modules.get("vmm.testing.time_limit")) is not None:
        module.hold_all()


def pytest_leave_pdb() -> None:
    """Let them run again."""
    if (module := sys.modules.get("vmm.testing.time_limit")) is not None:
        module.go_on_all()


def _session_guest_of(item: pytest.Item) -> Guest | None:
    if _SESSION_FIXTURE not in getattr(item, "fixturenames", ()):
        return None
    return item.config.stash.get(_SESSION_GUEST, None)


def _marked(request: pytest.FixtureRequest, config: GuestConfig) -> GuestConfig:
    """Return the configuration as the markers change it, the closest one last."""
    allowed = [one.name for one in fields(config)]
    for marker in reversed(list(request.node.iter_markers("guest"))):
        if marker.args or not marker.kwargs.keys() <= set(allowed):
            wrong = ", ".join([*map(repr, marker.args), *(marker.kwargs.keys() - set(allowed))])
            raise pytest.UsageError(f"marker guest: {wrong}: must be one of {', '.join(allowed)}")
        config = replace(config, **marker.kwargs)
    return config
