"""What a host is given of a saved processor and its chips has the sizes that KVM reads."""

from types import SimpleNamespace
from typing import Any

import pytest

from virtio.errors import ConfigurationError, HostError
from vmm.snapshot.state import check_machine_state, taken_over
from vmm.x86.chip_state import ChipState, restore_chips
from vmm.x86.vcpu_state import VcpuState, restore_vcpu

NOBODY: Any = SimpleNamespace(fd=-1)  # an ioctl would fail with EBADF, as HostError

# The sizes of Linux include/uapi/asm/kvm.h, for x86-64.
PARTS: dict[str, Any] = {
    "cpuid": bytes(40),
    "mp_state": 0,
    "regs": bytes(144),
    "sregs": bytes(312),
    "xsave": bytes(4096),
    "xcrs": bytes(392),
    "debug_registers": bytes(128),
    "lapic": bytes(1024),
    "msrs": bytes(16),
    "events": bytes(64),
    "tsc_khz": 2_000_000,
}
CHIPS: dict[str, Any] = {
    "irqchips": tuple(bytes([number]) + bytes(519) for number in range(3)),
    "pit": bytes(112),
    "clock_ns": 1,
}


def test_parts_of_the_right_size_come_to_kvm() -> None:
    with pytest.raises(HostError, match="Bad file descriptor"):
        restore_vcpu(NOBODY, VcpuState(**PARTS))
    with pytest.raises(HostError, match="Bad file descriptor"):
        restore_chips(NOBODY, ChipState(**CHIPS))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("regs", bytes(143), "regs has 143 items, must have 144"),
        ("xsave", bytes(4097), "xsave has 4097 items, must have 4096"),
        ("lapic", b"", "lapic has 0 items, must have 1024"),
        ("events", "x" * 64, "events is 'x+', must be bytes"),
        ("mp_state", -1, "mp_state is -1, must be 0 to 4294967295"),
        ("mp_state", 1 << 32, "mp_state is 4294967296"),
        ("mp_state", False, "mp_state is False, must be int"),
        ("tsc_khz", 0, "tsc_khz is 0, must be 1 to"),
        ("cpuid", bytes(41), "cpuid is no list of 40 bytes each"),
        ("cpuid", bytes(257 * 40), "cpuid has 10280 items"),
        ("msrs", bytes(15), "msrs is no list of 16 bytes each"),
        ("msrs", bytes(257 * 16), "msrs has 4112 items"),
    ],
)
def test_a_part_of_another_size_does_not(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^saved processor: {message}"):
        restore_vcpu(NOBODY, VcpuState(**PARTS | {name: value}))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pit", bytes(111), "pit has 111 items, must have 112"),
        ("clock_ns", 1 << 64, "clock_ns is 18446744073709551616"),
        ("irqchips", CHIPS["irqchips"][:2], "irqchips is .*, must be 3 items"),
        ("irqchips", (*CHIPS["irqchips"][:2], b""), r"irqchips\[2\] has 0 items, must have 520"),
        ("irqchips", CHIPS["irqchips"][::-1], r"irqchips\[0\] is of another chip"),
    ],
)
def test_nor_do_chips_of_another_size(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^saved chips: {message}"):
        restore_chips(NOBODY, ChipState(**CHIPS | {name: value}))


def test_a_machine_has_as_many_parts_as_it_says() -> None:
    state: Any = SimpleNamespace(vcpus=(1, 2), transports=(1,))

    check_machine_state(state, cpus=2, transports=1)
    with pytest.raises(ConfigurationError, match="saved machine: 2 processors, it has 1"):
        check_machine_state(state, cpus=1, transports=1)
    with pytest.raises(ConfigurationError, match="saved machine: 1 virtio devices, it has 3"):
        check_machine_state(state, cpus=2, transports=3)


def test_a_value_that_kvm_refuses_is_at_fault_and_not_the_host() -> None:
    with (
        pytest.raises(ConfigurationError, match="saved processor 1: this host does not take it:"),
        taken_over("processor 1"),
    ):
        raise HostError("KVM_SET_SREGS", 22)
    with pytest.raises(HostError, match="memory"), taken_over("processor 1"):
        raise HostError("KVM_SET_SREGS", 12)
