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
from vmm.testing.grid import KernelGrid
from vmm.testing.matrix import KernelChoice, choice_of, parametrize, row_of

if TYPE_CHECKING:
    from vmm.testing.config import GuestConfig
    from vmm.testing.guest import Guest
    from vmm.testing.snapshots import SnapshotStore

_MARKER = (
    "guest(memory, cpus, cmdline, kernel, initrd, vsock, balloon, files, disks, shares, nets,"
    " devices, deadline, shared, allow_complaints, sandbox): the guest that the test wants, where"
    " it differs from the fixture guest_config; kernel= may be a list: one test for each"
)
_SESSION_FIXTURE = "session_guest"

_KERNEL_PROPERTY = "guest-kernel"
_LOG_PROPERTY = "guest-kernel-log"
_MOST_LINES = 100

_ATTEMPT = pytest.StashKey[Attempt]()
_SESSION_GUEST = pytest.StashKey["Guest"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pyvmm", "guests under KVM")
    group.addoption(
        "--guest-required",
        action="store_true",
        help="fail tests that want a guest where this host runs none, rather than skip them",
    )
    group.addoption(
        "--guest-kernel",
        action="append",
        default=[],
        dest="guest_kernels",
        metavar="KERNEL",
        help="run each test under this kernel: a path, a name such as debian:6.12, or default; may"
        " be given several times, and takes the place of the lists that tests have",
    )
    group.addoption(
        "--guest-kernel-missing",
        choices=("error", "skip"),
        default="error",
        help="what becomes of tests whose kernel is not to be had on this host",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    config.pluginmanager.register(KernelGrid())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test for each kernel."""
    parametrize(metafunc)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Have JUnit tell a test's kernel."""
    if (choice := choice_of(item)) is not None:
        item.user_properties.append((_KERNEL_PROPERTY, choice.label))


@pytest.fixture(scope="session")
def guest_kernel(request: pytest.FixtureRequest) -> KernelChoice | None:
    """The kernel of the test's guest where it is one of several, with its ``label``; else None."""
    choice = getattr(request, "param", None)
    return choice if isinstance(choice, KernelChoice) else None


@pytest.fixture
def guest_config() -> GuestConfig:
    """The guest that tests get unless a marker says more; override it in a conftest or module."""
    from vmm.testing.config import GuestConfig

    return GuestConfig()


@pytest.fixture
def guest(
    request: pytest.FixtureRequest,
    guest_config: GuestConfig,
    guest_kernel: KernelChoice | None,
    guest_snapshots: SnapshotStore,
) -> Iterator[Guest]:
    """A booted Linux guest, restored for this test; skipped where this host runs no guest."""
    _begin(request.config)
    config = _marked(request, guest_config, guest_kernel)
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
        attempt.watch(found, config)
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
    guest_kernel: KernelChoice | None,
    guest_snapshots: SnapshotStore,
) -> Iterator[Guest]:
    """One guest for all tests of a run that ask for it, and for fixtures of any scope.

    Each test may use it for its configuration's deadline. After a test in which it ended it is
    made anew, and so is what other fixtures made of it.
    """
    _begin(request.config)
    stash = request.config.stash
    config = _with_kernel(session_guest_config, guest_kernel)
    with ExitStack() as own:
        found = _started(request.config, config, guest_snapshots, own)
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


def _check_kernel(config: pytest.Config, wanted: GuestConfig) -> None:
    """End a test whose kernel is not to be had on this host, as the command line says."""
    from virtio.errors import ConfigurationError
    from vmm.testing.terminal import visible_progress

    try:
        with visible_progress(config) as progress:
            wanted.check_kernel(progress)
    except ConfigurationError as error:
        if config.getoption("guest_kernel_missing") == "skip":
            pytest.skip(str(error))
        raise


def _started(
    config: pytest.Config, wanted: GuestConfig, snapshots: SnapshotStore, resources: ExitStack
) -> Guest:
    """Start a guest, which ends when ``resources`` are closed; the first one of its kind boots."""
    from vmm.testing.boot import booting, check_boot
    from vmm.testing.guest import Guest
    from vmm.testing.terminal import visible_progress
    from vmm.testing.time_limit import TimeLimit

    _check_kernel(config, wanted)
    attempt = config.stash[_ATTEMPT]
    limit = TimeLimit(wanted.deadline)
    with visible_progress(config) as progress:
        limited = partial(booting, limit=limit, on_failure=attempt.add_text)
        snapshot = snapshots.get(wanted, limited, progress)
    boot = snapshots.boot_log(snapshot)
    check_boot(boot.complaints(), wanted)
    guest = Guest(snapshot, wanted, limit, boot.tainted)
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
    """Fail a test in which the session's guest ended unasked, or a guest's kernel complained."""
    attempt = item.config.stash[_ATTEMPT]
    guest = _session_guest_of(item)
    if guest is not None:
        attempt.check(guest)
        attempt.watch(guest, _marked(item, guest.config, choice_of(item)))
    attempt.check_complaints()
    _note_log(item, attempt)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Attach the guest's report to that of a test that failed, and show the test's frames alone."""
    attempt = item.config.stash.get(_ATTEMPT, None)
    if attempt is None or not attempt.has_guest:
        return _in_grid(item, (yield))
    if call.when == "teardown":
        attempt.resources.close()
    if call.excinfo is None:
        return _in_grid(item, (yield))
    from vmm.testing.frames import hide_own_frames, message_alone

    texts = attempt.reports()
    if call.when == "call" and (lines := _note_log(item, attempt)):
        texts.append("\n".join(["the kernel printed:", *lines[-_MOST_LINES:]]))
    test_is_shown = hide_own_frames(call.excinfo, item.config)
    report = _in_grid(item, (yield))
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


def _in_grid(item: pytest.Item, report: Any) -> Any:
    if (choice := choice_of(item)) is not None:
        report.guest_cell = (row_of(item, choice), choice.label)
    return report


def _note_log(item: pytest.Item, attempt: Attempt) -> list[str]:
    """Have JUnit tell what the kernels printed in this attempt, and return it."""
    lines = attempt.kernel_lines()
    kept = [one for one in item.user_properties if one[0] != _LOG_PROPERTY]
    logs = [(_LOG_PROPERTY, "\n".join(lines))] if lines else []
    item.user_properties[:] = [*kept, *logs]
    return lines


def _session_guest_of(item: pytest.Item) -> Guest | None:
    if _SESSION_FIXTURE not in getattr(item, "fixturenames", ()):
        return None
    return item.config.stash.get(_SESSION_GUEST, None)


def _marked(
    where: pytest.FixtureRequest | pytest.Item, config: GuestConfig, choice: KernelChoice | None
) -> GuestConfig:
    """Return the configuration as the markers change it, the closest one last."""
    item = where if isinstance(where, pytest.Item) else where.node
    allowed = [one.name for one in fields(config)]
    wanted: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers("guest"))):
        if marker.args or not marker.kwargs.keys() <= set(allowed):
            wrong = ", ".join([*map(repr, marker.args), *(marker.kwargs.keys() - set(allowed))])
            raise pytest.UsageError(f"marker guest: {wrong}: must be one of {', '.join(allowed)}")
        wanted |= marker.kwargs
    if choice is not None:
        wanted["kernel"] = choice.kernel
    return replace(config, **wanted)


def _with_kernel(config: GuestConfig, choice: KernelChoice | None) -> GuestConfig:
    return config if choice is None else replace(config, kernel=choice.kernel)
