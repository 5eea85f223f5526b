"""KVM's x86 structures and request numbers, against the kernel's headers."""

from pathlib import Path

from tests.unit.vmm.kvm.kernel_headers import (
    layout_expressions,
    requests_of,
    values_in_kernel_headers,
)
from vmm.x86 import host
from vmm.x86.kvm import chips, cpuid, msr, registers, vcpu

# Typed from the uapi headers of Linux on x86-64.
REQUESTS = {
    "KVM_GET_SUPPORTED_CPUID": 0xC008AE05,
    "KVM_SET_TSS_ADDR": 0xAE47,
    "KVM_CREATE_IRQCHIP": 0xAE60,
    "KVM_CREATE_PIT2": 0x4040AE77,
    "KVM_GET_REGS": 0x8090AE81,
    "KVM_SET_REGS": 0x4090AE82,
    "KVM_GET_SREGS": 0x8138AE83,
    "KVM_SET_SREGS": 0x4138AE84,
    "KVM_TRANSLATE": 0xC018AE85,
    "KVM_GET_MSRS": 0xC008AE88,
    "KVM_SET_MSRS": 0x4008AE89,
    "KVM_SET_FPU": 0x41A0AE8D,
    "KVM_GET_LAPIC": 0x8400AE8E,
    "KVM_SET_LAPIC": 0x4400AE8F,
    "KVM_SET_CPUID2": 0x4008AE90,
    "KVM_GET_VCPU_EVENTS": 0x8040AE9F,
    "KVM_SET_VCPU_EVENTS": 0x4040AEA0,
    "KVM_GET_MSR_INDEX_LIST": 0xC004AE02,
    "KVM_GET_IRQCHIP": 0xC208AE62,
    "KVM_SET_IRQCHIP": 0x8208AE63,
    "KVM_SET_CLOCK": 0x4030AE7B,
    "KVM_GET_CLOCK": 0x8030AE7C,
    "KVM_GET_CPUID2": 0xC008AE91,
    "KVM_GET_PIT2": 0x8070AE9F,
    "KVM_SET_PIT2": 0x4070AEA0,
    "KVM_GET_DEBUGREGS": 0x8080AEA1,
    "KVM_SET_DEBUGREGS": 0x4080AEA2,
    "KVM_SET_TSC_KHZ": 0xAEA2,
    "KVM_GET_TSC_KHZ": 0xAEA3,
    "KVM_GET_XSAVE": 0x9000AEA4,
    "KVM_SET_XSAVE": 0x5000AEA5,
    "KVM_GET_XCRS": 0x8188AEA6,
    "KVM_SET_XCRS": 0x4188AEA7,
    "KVM_KVMCLOCK_CTRL": 0xAEAD,
}

LAYOUTS = [
    ("kvm_regs", registers.Regs),
    ("kvm_segment", registers.Segment),
    ("kvm_dtable", registers.Dtable),
    ("kvm_sregs", registers.Sregs),
    ("kvm_fpu", registers.Fpu),
    ("kvm_lapic_state", chips.LapicState),
    ("kvm_cpuid_entry2", cpuid.CpuidEntry2),
    ("kvm_msr_entry", msr.MsrEntry),
    ("kvm_translation", vcpu.Translation),
    ("kvm_vcpu_events", vcpu.VcpuEvents),
    ("kvm_pit_config", chips.PitConfig),
    ("kvm_irqchip", chips.Irqchip),
    ("kvm_pit_state2", chips.PitState2),
    ("kvm_clock_data", chips.ClockData),
    ("kvm_debugregs", registers.DebugRegs),
    ("kvm_xsave", registers.Xsave),
    ("kvm_xcrs", registers.Xcrs),
]
NOT_IN_THE_HEADER = {"rest"}

CONSTANTS = {
    **host.REQUIRED_CAPABILITIES,
    "KVM_CAP_TSC_DEADLINE_TIMER": host.KVM_CAP_TSC_DEADLINE_TIMER,
}


def test_request_numbers_are_the_documented_ones() -> None:
    assert requests_of(chips, cpuid, msr, registers, vcpu) == REQUESTS


def test_structures_and_numbers_are_those_of_the_kernel_headers(tmp_path: Path) -> None:
    expected = CONSTANTS | REQUESTS | layout_expressions(LAYOUTS, NOT_IN_THE_HEADER)

    assert values_in_kernel_headers(expected, tmp_path) == expected
