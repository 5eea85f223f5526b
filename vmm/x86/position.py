"""A stopped vCPU: where it is, in words, whether it is at work, and whether it can run again."""

from typing import Final

from vmm.kvm.vcpu import (
    KVM_MP_STATE_HALTED,
    KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_UNINITIALIZED,
)
from vmm.x86.kvm.vcpu import Vcpu

_RFLAGS_IF: Final = 1 << 9
_REGISTERS: Final = (
    *("rip", "rsp", "rbp", "rflags", "rax", "rbx", "rcx", "rdx", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
_STATES: Final = {
    KVM_MP_STATE_UNINITIALIZED: ", not started",
    KVM_MP_STATE_INIT_RECEIVED: ", waits for its start-up IPI",
    KVM_MP_STATE_HALTED: ", halted",
}
_CONTROL_REGISTERS: Final = ("cr0", "cr2", "cr3", "cr4", "efer")
# Where a processor begins after INIT (SDM vol. 3 "Processor State After Reset"). AMD leaves the
# state undefined after a shutdown, so there KVM resets it: Linux svm.c shutdown_interception().
_RESET_POSITION: Final = (0xFFF0, 0xFFFF_0000)


def describe_position(vcpu: Vcpu) -> str:
    """Return where a vCPU is, in one line."""
    regs, sregs = vcpu.regs(), vcpu.sregs()
    mode = "user" if sregs.cs.selector & 3 else "kernel"
    state = _STATES.get(vcpu.mp_state(), "")
    return (
        f"vCPU {vcpu.index}: rip {regs.rip:#x} ({mode}{state}), rsp {regs.rsp:#x},"
        f" rflags {regs.rflags:#x}, cr3 {sregs.cr3:#x}"
    )


def describe_registers(vcpu: Vcpu) -> list[str]:
    """Return all registers that a kernel's own report of an error shows, four in a line."""
    regs, sregs = vcpu.regs(), vcpu.sregs()
    if (regs.rip, sregs.cs.base) == _RESET_POSITION:
        return [f"registers of vCPU {vcpu.index}: lost, as KVM has reset it at its triple fault"]
    values = {name: getattr(regs, name) for name in _REGISTERS}
    values |= {name: getattr(sregs, name) for name in _CONTROL_REGISTERS}
    shown = [f"{name} {value:#018x}" for name, value in values.items()]
    lines = ["  " + ", ".join(shown[at : at + 4]) for at in range(0, len(shown), 4)]
    return [f"registers of vCPU {vcpu.index} when the guest ended:", *lines]


def is_halted_for_ever(vcpu: Vcpu) -> bool:
    """Whether only an NMI or a start-up IPI could make the vCPU run again.

    A PC without ACPI powers off by HLT with interrupts off.
    """
    state = vcpu.mp_state()
    if state == KVM_MP_STATE_RUNNABLE:
        return False
    return state != KVM_MP_STATE_HALTED or not vcpu.regs().rflags & _RFLAGS_IF


def shows_life(vcpu: Vcpu) -> bool:
    """Whether the vCPU runs a program, or idles until an interrupt: what no panicked kernel does.

    Also the processors that a panicking Linux stops halt with interrupts off.
    """
    if vcpu.mp_state() == KVM_MP_STATE_HALTED:
        return bool(vcpu.regs().rflags & _RFLAGS_IF)
    return bool(vcpu.sregs().cs.selector & 3)
