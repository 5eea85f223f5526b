"""KVM's structures and request numbers, against the kernel's headers and documented values."""

from pathlib import Path

from tests.unit.vmm.kvm.kernel_headers import (
    layout_expressions,
    requests_of,
    values_in_kernel_headers,
)
from vmm.kvm import ioctl, routing, structs, system, vcpu, vm

# Typed from the uapi headers of Linux.
REQUESTS = {
    "KVM_GET_API_VERSION": 0xAE00,
    "KVM_CREATE_VM": 0xAE01,
    "KVM_CHECK_EXTENSION": 0xAE03,
    "KVM_GET_VCPU_MMAP_SIZE": 0xAE04,
    "KVM_CREATE_VCPU": 0xAE41,
    "KVM_GET_DIRTY_LOG": 0x4010AE42,
    "KVM_SET_USER_MEMORY_REGION": 0x4020AE46,
    "KVM_IRQ_LINE": 0x4008AE61,
    "KVM_SET_GSI_ROUTING": 0x4008AE6A,
    "KVM_IRQFD": 0x4020AE76,
    "KVM_IOEVENTFD": 0x4040AE79,
    "KVM_RUN": 0xAE80,
    "KVM_SET_SIGNAL_MASK": 0x4004AE8B,
    "KVM_GET_MP_STATE": 0x8004AE98,
    "KVM_SET_MP_STATE": 0x4004AE99,
    "KVM_SIGNAL_MSI": 0x4020AEA5,
}

LAYOUTS = [
    ("kvm_mp_state", structs.MpState),
    ("kvm_userspace_memory_region", structs.UserspaceMemoryRegion),
    ("kvm_dirty_log", structs.DirtyLog),
    ("kvm_irqfd", structs.Irqfd),
    ("kvm_ioeventfd", structs.Ioeventfd),
    ("kvm_irq_level", structs.IrqLevel),
    ("kvm_msi", structs.Msi),
    ("kvm_irq_routing", structs.IrqRoutingHead),
    ("kvm_irq_routing_entry", structs.IrqRoutingEntry),
]

CONSTANTS = {
    **system.REQUIRED_CAPABILITIES,
    "KVM_API_VERSION": system.KVM_API_VERSION,
    "KVM_CAP_IRQ_ROUTING": system.KVM_CAP_IRQ_ROUTING,
    "KVM_CAP_IOEVENTFD_ANY_LENGTH": system.KVM_CAP_IOEVENTFD_ANY_LENGTH,
    "KVM_CAP_SIGNAL_MSI": system.KVM_CAP_SIGNAL_MSI,
    "KVM_IRQ_ROUTING_MSI": routing.KVM_IRQ_ROUTING_MSI,
    "KVM_MEM_LOG_DIRTY_PAGES": vm.KVM_MEM_LOG_DIRTY_PAGES,
    "KVM_IRQFD_FLAG_DEASSIGN": vm.KVM_IRQFD_FLAG_DEASSIGN,
    "KVM_IOEVENTFD_FLAG_DATAMATCH": vm.KVM_IOEVENTFD_FLAG_DATAMATCH,
    "KVM_IOEVENTFD_FLAG_DEASSIGN": vm.KVM_IOEVENTFD_FLAG_DEASSIGN,
    "KVM_CAP_MAX_VCPUS": system.KVM_CAP_MAX_VCPUS,
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


def test_request_numbers_are_the_documented_ones() -> None:
    assert requests_of(ioctl) == REQUESTS


def test_structures_and_numbers_are_those_of_the_kernel_headers(tmp_path: Path) -> None:
    expected = CONSTANTS | requests_of(ioctl) | layout_expressions(LAYOUTS)

    assert values_in_kernel_headers(expected, tmp_path) == expected
