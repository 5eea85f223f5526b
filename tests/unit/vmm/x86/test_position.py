"""Where a stopped vCPU is, and which halt lasts for ever."""

from typing import cast

import pytest

from vmm.x86 import Vcpu, is_halted_for_ever

RUNNABLE, UNINITIALIZED, HALTED = 0, 1, 3
INTERRUPTS_ON, INTERRUPTS_OFF = 0x202, 0x2


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
