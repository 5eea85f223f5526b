"""One limit bounds what a test does one after the other, and stands still in a debugger."""

import bdb
import threading

import pytest

from vmm.testing import time_limit
from vmm.testing.time_limit import TimeLimit


class Timers:
    """Stands in for the timers of threads: they pass when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.waiting: list[FakeTimer] = []
        monkeypatch.setattr(time_limit, "monotonic", lambda: self.now)
        monkeypatch.setattr(threading, "Timer", lambda *both: FakeTimer(self, *both))
        monkeypatch.setattr(threading, "current_thread", lambda: self.current)
        self.current: object = None

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        for timer in [one for one in self.waiting if one.when <= self.now]:
            self.waiting.remove(timer)
            self.current = timer
            timer.call()


class FakeTimer:
    def __init__(self, timers: Timers, seconds: float, call: object) -> None:
        self.timers, self.when = timers, timers.now + seconds
        self.call = call if callable(call) else lambda: None
        self.daemon = False

    def start(self) -> None:
        self.timers.waiting.append(self)

    def cancel(self) -> None:
        if self in self.timers.waiting:
            self.timers.waiting.remove(self)


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    return Timers(monkeypatch)


def test_blocks_one_after_the_other_share_the_time(timers: Timers) -> None:
    passed: list[str] = []
    limit = TimeLimit(10)
    with limit.running(lambda: passed.append("boot")):
        timers.pass_by(6)
    timers.pass_by(1000)  # nothing of the test runs

    with limit.running(lambda: passed.append("test")):
        timers.pass_by(3)
        assert (passed, limit.left) == ([], 1)
        timers.pass_by(1)

    assert passed == ["test"]


def test_blocks_inside_each_other_all_end(timers: Timers) -> None:
    passed: list[str] = []
    limit = TimeLimit(10)
    with limit.running(lambda: passed.append("one")), limit.running(lambda: passed.append("two")):
        timers.pass_by(10)

    assert passed == ["one", "two"]


def test_time_that_is_over_ends_the_next_block_at_once(timers: Timers) -> None:
    passed: list[str] = []
    limit = TimeLimit(10)
    with limit.running(lambda: None):
        timers.pass_by(10)
    with limit.running(lambda: passed.append("late")):
        timers.pass_by(0)

    assert passed == ["late"]


def test_a_debugger_that_says_so_stops_the_clock(timers: Timers) -> None:
    passed: list[str] = []
    limit = TimeLimit(10)
    with limit.running(lambda: passed.append("over")):
        timers.pass_by(4)
        time_limit.hold_all()
        timers.pass_by(1000)
        assert (passed, limit.left) == ([], 6)
        time_limit.go_on_all()
        timers.pass_by(5)
        assert passed == []
        timers.pass_by(1)

    assert passed == ["over"]


def test_block_that_begins_in_a_debugger_waits_for_its_end(timers: Timers) -> None:
    passed: list[str] = []
    limit = TimeLimit(10)
    with limit.running(lambda: passed.append("one")):
        time_limit.hold_all()
        with limit.running(lambda: passed.append("two")):
            timers.pass_by(1000)

    assert passed == []


def test_end_of_an_inner_block_stops_no_clock(timers: Timers) -> None:
    passed: list[str] = []
    limit = TimeLimit(10)
    with limit.running(lambda: passed.append("over")):
        with limit.running(lambda: None):
            pass
        timers.pass_by(10)

    assert passed == ["over"]


def test_timer_that_was_stopped_too_late_ends_nothing(timers: Timers) -> None:
    passed: list[str] = []
    limit = TimeLimit(10)
    with limit.running(lambda: None):
        timers.current = late = timers.waiting[0]
    with limit.running(lambda: passed.append("over")):
        late.call()

    assert passed == []


def test_another_debugger_is_seen_at_its_work(timers: Timers) -> None:
    passed: list[str] = []
    limit = TimeLimit(10)
    with limit.running(lambda: passed.append("over")):
        bdb.Bdb().runcall(timers.pass_by, 10)
        assert (passed, limit.left) == ([], 10)
        timers.pass_by(10)

    assert passed == ["over"]
