"""A guest that has halted for ever is noticed, and one that only idles is left alone."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from vmm.halt_watch import HaltWatch, is_halted_for_ever
from vmm.kvm.vcpu import Vcpu
from vmm.vcpu import VcpuThread

RUNNABLE, UNINITIALIZED, HALTED = 0, 1, 3
INTERRUPTS_ON, INTERRUPTS_OFF = 0x202, 0x2


class Timers:
    def __init__(self) -> None:
        self.due: list[Callable[[], object]] = []

    def call_later(self, seconds: float, callback: Callable[[], object]) -> None:
        self.due.append(callback)

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            due, self.due = self.due, []
            for callback in due:
                callback()


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
    def __init__(self, vcpu: FakeVcpu, *, busy: bool = False) -> None:
        self.vcpu, self.busy, self.used, self.calls = vcpu, busy, 0.0, 0

    def cpu_seconds(self) -> float:
        self.used += 0.1 * self.busy
        return self.used

    def call(self, function: Callable[[Any], Any]) -> Any:
        self.calls += 1
        return function(self.vcpu)


def watch(*threads: FakeThread, rounds: int = 3) -> int:
    timers, halted = Timers(), []
    watcher = HaltWatch(timers, cast("list[VcpuThread]", threads), lambda: halted.append(1))
    watcher.start()
    timers.run(rounds)
    return len(halted)


@pytest.mark.parametrize(
    ("state", "rflags", "expected"),
    [
        (RUNNABLE, INTERRUPTS_OFF, False),
        (HALTED, INTERRUPTS_ON, False),
        (HALTED, INTERRUPTS_OFF, True),
        (UNINITIALIZED, INTERRUPTS_OFF, True),
    ],
)
def test_only_a_halt_with_interrupts_off_is_for_ever(
    state: int, rflags: int, expected: bool
) -> None:
    vcpu = cast(Vcpu, FakeVcpu(state, rflags))

    assert is_halted_for_ever(vcpu) is expected


def test_halted_guest_is_reported_once() -> None:
    assert watch(FakeThread(FakeVcpu(HALTED, INTERRUPTS_OFF)), rounds=10) == 1


def test_idle_guest_is_left_alone() -> None:
    assert watch(FakeThread(FakeVcpu(HALTED, INTERRUPTS_ON)), rounds=10) == 0


def test_busy_vcpu_is_never_made_to_leave_the_guest() -> None:
    busy = FakeThread(FakeVcpu(HALTED, INTERRUPTS_OFF), busy=True)

    assert watch(busy, rounds=10) == 0
    assert busy.calls == 0


def test_one_vcpu_that_can_run_keeps_the_machine_alive() -> None:
    halted = FakeThread(FakeVcpu(HALTED, INTERRUPTS_OFF))
    idle = FakeThread(FakeVcpu(HALTED, INTERRUPTS_ON))

    assert watch(halted, idle, rounds=10) == 0


def test_secondary_that_was_never_started_does_not_count() -> None:
    boot = FakeThread(FakeVcpu(HALTED, INTERRUPTS_OFF))
    secondary = FakeThread(FakeVcpu(UNINITIALIZED, INTERRUPTS_OFF))

    assert watch(boot, secondary) == 1
