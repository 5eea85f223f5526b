"""What a machine that runs asks of KVM, for a filter: the requests, and what each is for.

None of them makes a machine, a vCPU or a memory slot: those are there when the guest is entered.
"""

from typing import Final

from vmm.kvm import ioctl
from vmm.kvm.ioctl import Request
from vmm.x86.kvm import chips, cpuid, msr, registers, vcpu

RUNNING_REQUESTS: Final[dict[Request, str]] = {
    ioctl.KVM_RUN: "enters the guest",
    registers.KVM_GET_REGS: "emulation, positions, snapshots",
    registers.KVM_SET_REGS: "emulation",
    registers.KVM_GET_SREGS: "emulation, positions, snapshots",
    registers.KVM_SET_SREGS: "emulation",
    registers.KVM_SET_FPU: "emulation",
    vcpu.KVM_TRANSLATE: "emulation, positions",
    msr.KVM_GET_MSRS: "emulation, snapshots",
    msr.KVM_SET_MSRS: "emulation",
    vcpu.KVM_GET_VCPU_EVENTS: "emulation, snapshots",
    vcpu.KVM_SET_VCPU_EVENTS: "emulation",
    ioctl.KVM_GET_MP_STATE: "halts, snapshots",
    ioctl.KVM_SET_SIGNAL_MASK: "a vCPU's thread begins",
    ioctl.KVM_IRQFD: "a device is plugged, or taken away at the end; a PCI vector settles",
    ioctl.KVM_IOEVENTFD: "a device is plugged, or taken away at the end; a BAR moves",
    ioctl.KVM_IRQ_LINE: "interrupts of PCI by a line",
    ioctl.KVM_SIGNAL_MSI: "interrupts of PCI by messages",
    ioctl.KVM_SET_GSI_ROUTING: "a PCI vector settles",
    vcpu.KVM_KVMCLOCK_CTRL: "goes on after a pause",
    ioctl.KVM_GET_DIRTY_LOG: "snapshots: what the guest wrote since it told its free pages",
    chips.KVM_GET_LAPIC: "snapshots",
    chips.KVM_GET_IRQCHIP: "snapshots, the power button",
    chips.KVM_GET_PIT2: "snapshots",
    chips.KVM_GET_CLOCK: "snapshots",
    cpuid.KVM_GET_CPUID2: "snapshots",
    vcpu.KVM_GET_TSC_KHZ: "snapshots",
    registers.KVM_GET_DEBUGREGS: "snapshots",
    registers.KVM_GET_XSAVE: "snapshots",
    registers.KVM_GET_XCRS: "snapshots",
    msr.KVM_GET_MSR_INDEX_LIST: "snapshots",
}
