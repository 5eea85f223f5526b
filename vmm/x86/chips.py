"""The interrupt chips and the timer that KVM keeps for a PC: making them."""

from typing import Final

from vmm.kvm.ioctl import ioctl
from vmm.kvm.vm import Vm
from vmm.x86 import layout
from vmm.x86.kvm.chips import KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2, KVM_SET_TSS_ADDR, PitConfig

KVM_PIT_SPEAKER_DUMMY: Final = 1  # the timer answers port 0x61, too


def create_chips(vm: Vm) -> None:
    """Create what must exist before the first vCPU: TSS pages, interrupt chips, timer.

    The chips are the 8259 pair, the IOAPIC and a local APIC for each vCPU to come; the timer is
    the 8254.
    """
    ioctl(vm.fd, KVM_SET_TSS_ADDR, layout.KVM_TSS)
    ioctl(vm.fd, KVM_CREATE_IRQCHIP)
    ioctl(vm.fd, KVM_CREATE_PIT2, PitConfig(flags=KVM_PIT_SPEAKER_DUMMY))
