"""KVM's structures and request numbers, against the kernel's own headers and documented values."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from vmm.kvm import ioctl, structs, system, vcpu

# Typed from the uapi headers of Linux on x86-64.
REQUESTS = {
    "KVM_GET_API_VERSION": 0xAE00,
    "KVM_CREATE_VM": 0xAE01,
    "KVM_CHECK_EXTENSION": 0xAE03,
    "KVM_GET_VCPU_MMAP_SIZE": 0xAE04,
    "KVM_GET_SUPPORTED_CPUID": 0xC008AE05,
    "KVM_CREATE_VCPU": 0xAE41,
    "KVM_SET_USER_MEMORY_REGION": 0x4020AE46,
    "KVM_SET_TSS_ADDR": 0xAE47,
    "KVM_CREATE_IRQCHIP": 0xAE60,
    "KVM_IRQFD": 0x4020AE76,
    "KVM_CREATE_PIT2": 0x4040AE77,
    "KVM_IOEVENTFD": 0x4040AE79,
    "KVM_RUN": 0xAE80,
    "KVM_GET_REGS": 0x8090AE81,
    "KVM_SET_REGS": 0x4090AE82,
    "KVM_GET_SREGS": 0x8138AE83,
    "KVM_SET_SREGS": 0x4138AE84,
    "KVM_TRANSLATE": 0xC018AE85,
    "KVM_GET_MSRS": 0xC008AE88,
    "KVM_SET_MSRS": 0x4008AE89,
    "KVM_SET_SIGNAL_MASK": 0x4004AE8B,
    "KVM_SET_FPU": 0x41A0AE8D,
    "KVM_GET_LAPIC": 0x8400AE8E,
    "KVM_SET_LAPIC": 0x4400AE8F,
    "KVM_SET_CPUID2": 0x4008AE90,
    "KVM_GET_MP_STATE": 0x8004AE98,
    "KVM_GET_VCPU_EVENTS": 0x8040AE9F,
    "KVM_SET_VCPU_EVENTS": 0x4040AEA0,
    "KVM_GET_MSR_INDEX_LIST": 0xC004AE02,
    "KVM_GET_IRQCHIP": 0xC208AE62,
    "KVM_SET_IRQCHIP": 0x8208AE63,
    "KVM_SET_CLOCK": 0x4030AE7B,
    "KVM_GET_CLOCK": 0x8030AE7C,
    "KVM_GET_CPUID2": 0xC008AE91,
    "KVM_SET_MP_STATE": 0x4004AE99,
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

LAYOUTS: list[tuple[str, type[ctypes.Structure]]] = [
    ("kvm_regs", structs.Regs),
    ("kvm_segment", structs.Segment),
    ("kvm_dtable", structs.Dtable),
    ("kvm_sregs", structs.Sregs),
    ("kvm_fpu", structs.Fpu),
    ("kvm_lapic_state", structs.LapicState),
    ("kvm_cpuid_entry2", structs.CpuidEntry2),
    ("kvm_msr_entry", structs.MsrEntry),
    ("kvm_mp_state", structs.MpState),
    ("kvm_translation", structs.Translation),
    ("kvm_vcpu_events", structs.VcpuEvents),
    ("kvm_userspace_memory_region", structs.UserspaceMemoryRegion),
    ("kvm_pit_config", structs.PitConfig),
    ("kvm_irqfd", structs.Irqfd),
    ("kvm_ioeventfd", structs.Ioeventfd),
    ("kvm_irqchip", structs.Irqchip),
    ("kvm_pit_state2", structs.PitState2),
    ("kvm_clock_data", structs.ClockData),
    ("kvm_debugregs", structs.DebugRegs),
    ("kvm_xsave", structs.Xsave),
    ("kvm_xcrs", structs.Xcrs),
]
NOT_IN_THE_HEADER = {"rest"}

CONSTANTS = {
    **system.REQUIRED_CAPABILITIES,
    "KVM_API_VERSION": system.KVM_API_VERSION,
    "KVM_CAP_MAX_VCPUS": system.KVM_CAP_MAX_VCPUS,
    "KVM_CAP_TSC_DEADLINE_TIMER": system.KVM_CAP_TSC_DEADLINE_TIMER,
    "KVM_EXIT_IO": vcpu.KVM_EXIT_IO,
    "KVM_EXIT_HLT": vcpu.KVM_EXIT_HLT,
    "KVM_EXIT_MMIO": vcpu.KVM_EXIT_MMIO,
    "KVM_EXIT_SHUTDOWN": vcpu.KVM_EXIT_SHUTDOWN,
    "KVM_EXIT_FAIL_ENTRY": vcpu.KVM_EXIT_FAIL_ENTRY,
    "KVM_EXIT_INTR": vcpu.KVM_EXIT_INTR,
    "KVM_EXIT_INTERNAL_ERROR": vcpu.KVM_EXIT_INTERNAL_ERROR,
    "KVM_MP_STATE_RUNNABLE": vcpu.KVM_MP_STATE_RUNNABLE,
    "KVM_MP_STATE_HALTED": vcpu.KVM_MP_STATE_HALTED,
}


def request_numbers() -> dict[str, int]:
    found = vars(ioctl).values()
    return {item.name: item.number for item in found if isinstance(item, ioctl.Request)}


def expressions() -> dict[str, int]:
    """Return C expressions over linux/kvm.h, and what we believe them to be."""
    expected = dict(CONSTANTS) | request_numbers()
    for name, structure in LAYOUTS:
        expected[f"sizeof(struct {name})"] = ctypes.sizeof(structure)
        for field, *_ in structure._fields_:
            if field not in NOT_IN_THE_HEADER:
                descriptor = getattr(structure, field)
                expected[f"__builtin_offsetof(struct {name}, {field})"] = descriptor.offset
    return expected


def test_request_numbers_are_the_documented_ones() -> None:
    assert request_numbers() == REQUESTS


def test_structures_and_numbers_are_those_of_the_kernel_headers(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None or not Path("/usr/include/linux/kvm.h").exists():
        pytest.skip("needs a C compiler and linux-libc-dev")
    expected = expressions()
    source = tmp_path / "probe.c"
    lines = "".join(f'printf("%lu\\n", (unsigned long)({item}));\n' for item in expected)
    source.write_text(f"#include <linux/kvm.h>\n#include <stdio.h>\nint main(void) {{\n{lines}}}\n")
    subprocess.run([compiler, "-o", tmp_path / "probe", source], check=True)
    output = subprocess.run([tmp_path / "probe"], check=True, capture_output=True, text=True).stdout

    assert dict(zip(expected, map(int, output.split()), strict=True)) == expected
