"""A guest that has halted for ever is noticed, and one that only idles is left alone."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any, cast
from unittest.mock import Mock

import pytest

from vmm.ending import halt_watch
from vmm.ending.halt_watch import HaltWatch, WaitIdle, wait_idle_plainly
from vmm.vcpu import VcpuThread

DEADLINE, FOREVER_MS = 30, 10**6
RUNNABLE, UNINITIALIZED, HALTED = 0, 1, 3
INTERRUPTS_ON, INTERRUPTS_OFF = 0x202, 0x2


STANDS_STILL, MOVES = 99, time.CLOCK_MONOTONIC  # there is no clock 99: its thread is gone


class Loop:
    def __init__(self) -> None:
        self.calls = 0
        self.called = threading.Event()

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        self.calls += 1
        callback()
        self.called.set()


class Registers:
    def __init__(self, rflags: int) -> None:
        self.rflags = rflags


class FakeVcpu:
    def __init__(self, state: int, rflags: int) -> None:
        self.state, self.rflags = state, rflags

    def mp_state(self) -> int:
        return self.state

    def regs(self) -> Registers:
        return Registers(self.rflags)


class FakeThread:
    """``often`` is set when it has been asked for the third time."""

    def __init__(self, vcpu: FakeVcpu) -> None:
        self.vcpu, self.calls, self.cpu_clock = vcpu, 0, STANDS_STILL
        self.often = threading.Event()

    def call(self, function: Callable[[Any], Any]) -> Any:
        self.calls += 1
        if self.calls == 3:
            self.often.set()
        return function(self.vcpu)


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch, *threads: FakeThread) -> Iterator[Loop]:
    """The threads are watched while the body runs; each report is a call of the loop's."""
    monkeypatch.setattr(halt_watch, "INTERVAL_MS", 1)
    loop, on_halted = Loop(), Mock()
    vcpus = cast("list[VcpuThread]", threads)
    with HaltWatch(loop, vcpus, on_halted, wait_idle_plainly) as watch:
        watch.start()
        yield loop
    assert on_halted.call_count == loop.calls


def test_halted_guest_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = FakeThread(FakeVcpu(HALTED, INTERRUPTS_OFF))

    with watched(monkeypatch, thread) as loop:
        assert loop.called.wait(DEADLINE)

    assert (loop.calls, thread.calls) == (1, 1)


def test_idle_guest_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = FakeThread(FakeVcpu(HALTED, INTERRUPTS_ON))

    with watched(monkeypatch, thread) as loop:
        assert thread.often.wait(DEADLINE)

    assert loop.calls == 0


def test_one_vcpu_that_can_run_keeps_the_machine_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    halted = FakeThread(FakeVcpu(HALTED, INTERRUPTS_OFF))
    idle = FakeThread(FakeVcpu(HALTED, INTERRUPTS_ON))

    with watched(monkeypatch, halted, idle) as loop:
        assert idle.often.wait(DEADLINE)

    assert loop.calls == 0


def test_secondary_that_was_never_started_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    boot = FakeThread(FakeVcpu(HALTED, INTERRUPTS_OFF))
    secondary = FakeThread(FakeVcpu(UNINITIALIZED, INTERRUPTS_OFF))

    with watched(monkeypatch, boot, secondary) as loop:
        assert loop.called.wait(DEADLINE)

    assert loop.calls == 1


def test_busy_vcpu_is_never_made_to_leave_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = FakeThread(FakeVcpu(HALTED, INTERRUPTS_OFF))
    busy.cpu_clock = MOVES

    with watched(monkeypatch, busy) as loop:
        assert not loop.called.wait(0.05)  # some fifty looks

    assert busy.calls == 0


@pytest.fixture(params=["python", "native"])
def wait_idle(request: pytest.FixtureRequest) -> WaitIdle:
    if request.param == "python":
        return wait_idle_plainly
    native = pytest.importorskip("vmm.x86.native_run", reason="the C part was not built")
    return cast(WaitIdle, native.wait_idle)


@pytest.fixture
def stop() -> Iterator[int]:
    fd = os.eventfd(0)
    yield fd
    os.close(fd)


def test_clocks_that_all_stand_still_are_idle(wait_idle: WaitIdle, stop: int) -> None:
    assert wait_idle([STANDS_STILL, STANDS_STILL], 1, stop)


def test_clock_that_moves_is_not_idle(wait_idle: WaitIdle, stop: int) -> None:
    end = threading.Timer(0.05, os.eventfd_write, (stop, 1))  # some fifty looks
    end.start()

    assert not wait_idle([STANDS_STILL, MOVES], 1, stop)


def test_wait_ends_at_once_when_it_is_stopped(wait_idle: WaitIdle, stop: int) -> None:
    os.eventfd_write(stop, 1)

    assert not wait_idle([STANDS_STILL], FOREVER_MS, stop)


def test_processor_time_of_a_thread_is_seen(wait_idle: WaitIdle, stop: int) -> None:
    clock = Queue[int]()

    def compute() -> None:
        clock.put(time.pthread_getcpuclockid(threading.get_ident()))
        while time.thread_time() < 0.3:  # longer than an interval
            pass
        os.eventfd_write(stop, 1)

    thread = threading.Thread(target=compute)
    thread.start()

    assert not wait_idle([clock.get()], 250, stop)
    thread.join()


def test_watch_that_was_never_started_leaves_nothing() -> None:
    before = sorted(os.listdir("/proc/self/fd"))

    HaltWatch(Loop(), [], Mock(), wait_idle_plainly).close()

    assert sorted(os.listdir("/proc/self/fd")) == before
