"""Where a stopped vCPU is, and which halt lasts for ever."""

from types import SimpleNamespace
from typing import cast

import pytest

from vmm.x86 import Vcpu, describe_position, describe_registers, is_halted_for_ever
from vmm.x86.kvm.registers import Regs, Sregs

RUNNABLE, UNINITIALIZED, HALTED = 0, 1, 3
INTERRUPTS_ON, INTERRUPTS_OFF = 0x202, 0x2


class Registers:
    rip, rsp = 0xFFF0, 0

    def __init__(self, rflags: int) -> None:
        self.rflags = rflags


class FakeVcpu:
    index = 3

    def __init__(self, state: int, rflags: int) -> None:
        self.state, self.rflags = state, rflags

    def mp_state(self) -> int:
        return self.state

    def regs(self) -> Registers:
        return Registers(self.rflags)

    def sregs(self) -> SimpleNamespace:
        return SimpleNamespace(cs=SimpleNamespace(selector=0x10), cr3=0)


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


class StoppedVcpu:
    index = 3

    def __init__(self, rip: int, base: int) -> None:
        self._regs, self._sregs = Regs(rip=rip, rsi=0x1234), Sregs()
        self._sregs.cs.base = base

    def regs(self) -> Regs:
        return self._regs

    def sregs(self) -> Sregs:
        return self._sregs


def test_registers_are_told_as_they_were() -> None:
    told = describe_registers(cast(Vcpu, StoppedVcpu(0xFFF0, 0)))

    assert told[0] == "registers of vCPU 3 when the guest ended:"
    assert "rsi 0x0000000000001234" in "".join(told)


def test_registers_that_kvm_has_reset_are_told_as_lost() -> None:
    told = describe_registers(cast(Vcpu, StoppedVcpu(0xFFF0, 0xFFFF_0000)))

    assert told == ["registers of vCPU 3: lost, as KVM has reset it at its triple fault"]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (RUNNABLE, "(kernel)"),
        (UNINITIALIZED, "(kernel, not started)"),
        (2, "(kernel, waits for its start-up IPI)"),
        (HALTED, "(kernel, halted)"),
    ],
)
def test_where_a_vcpu_is_tells_whether_it_was_started(state: int, words: str) -> None:
    vcpu = cast("Vcpu", FakeVcpu(state, INTERRUPTS_OFF))

    assert describe_position(vcpu).startswith(f"vCPU 3: rip 0xfff0 {words}, rsp")
