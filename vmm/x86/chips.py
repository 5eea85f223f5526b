"""The interrupt chips and the timer that KVM keeps for a PC: making them."""

from typing import Final

from vmm.kvm.ioctl import ioctl
from vmm.kvm.vm import Vm
from vmm.x86 import layout
from vmm.x86.kvm.chips import (
    KVM_CREATE_IRQCHIP,
    KVM_CREATE_PIT2,
    KVM_GET_IRQCHIP,
    KVM_SET_IRQCHIP,
    KVM_SET_TSS_ADDR,
    Irqchip,
    PitConfig,
)

KVM_PIT_SPEAKER_DUMMY: Final = 1  # the timer answers port 0x61, too
KVM_IRQCHIP_PIC_MASTER: Final = 0
KVM_IRQCHIP_PIC_SLAVE: Final = 1
KVM_IRQCHIP_IOAPIC: Final = 2

_PIC_MASK: Final = 2  # of struct kvm_pic_state: __u8 last_irr, irr, imr, ...
# struct kvm_ioapic_state has 24 bytes before its entries of 8.
_IOAPIC_ENTRIES: Final = 24
_IOAPIC_ENTRY_MASKED: Final = 1 << 16


def create_chips(vm: Vm) -> None:
    """Create what must exist before the first vCPU: TSS pages, interrupt chips, timer.

    The chips are the 8259 pair, the IOAPIC and a local APIC for each vCPU to come; the timer is
    the 8254.
    """
    ioctl(vm.fd, KVM_SET_TSS_ADDR, layout.KVM_TSS)
    ioctl(vm.fd, KVM_CREATE_IRQCHIP)
    ioctl(vm.fd, KVM_CREATE_PIT2, PitConfig(flags=KVM_PIT_SPEAKER_DUMMY))


def mask_8259s(vm: Vm) -> None:
    """Mask all inputs of the 8259 pair, as a firmware leaves it.

    A kernel on reduced hardware never touches it. But each interrupt of an ISA device goes to it as
    well as to the IOAPIC, and unmasked it would pass them on through LINT0, with the vectors of
    exceptions.
    """
    for number in (KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE):
        chip = Irqchip(chip_id=number)
        ioctl(vm.fd, KVM_GET_IRQCHIP, chip)
        chip.chip[_PIC_MASK] = 0xFF
        ioctl(vm.fd, KVM_SET_IRQCHIP, chip)


def ioapic_listens(vm: Vm, gsi: int) -> bool:
    """Whether a driver of the guest has asked for an interrupt, and does not mask it now."""
    chip = Irqchip(chip_id=KVM_IRQCHIP_IOAPIC)
    ioctl(vm.fd, KVM_GET_IRQCHIP, chip)
    start = _IOAPIC_ENTRIES + 8 * gsi
    entry = int.from_bytes(bytes(chip.chip[start : start + 8]), "little")
    return not entry & _IOAPIC_ENTRY_MASKED
