"""Brings a new vCPU into the state in which the kernel is entered.

CPUID comes before the MSRs, as KVM checks an MSR against the features of the vCPU.
"""

from vmm.kvm.system import Kvm
from vmm.topology import CpuTopology
from vmm.x86.boot import entry as registers
from vmm.x86.boot.entry import EntryPoint
from vmm.x86.cpuid import CpuidEntry, guest_cpuid
from vmm.x86.host import KVM_CAP_TSC_DEADLINE_TIMER, is_emulated_host
from vmm.x86.kvm.cpuid import CpuidEntry2, supported_cpuid
from vmm.x86.kvm.vcpu import Vcpu


def set_up_vcpu(kvm: Kvm, vcpu: Vcpu, topology: CpuTopology, entry: EntryPoint) -> None:
    """Bring a new vCPU into the state in which the kernel is entered."""
    supported = [CpuidEntry(*_words(found)) for found in supported_cpuid(kvm)]
    tsc_deadline = bool(kvm.check(KVM_CAP_TSC_DEADLINE_TIMER))
    entries = guest_cpuid(
        supported, vcpu.index, topology, emulated=is_emulated_host(), tsc_deadline=tsc_deadline
    )
    vcpu.set_cpuid([CpuidEntry2(*found) for found in entries])
    vcpu.set_msrs(list(registers.BOOT_MSRS))
    vcpu.set_regs(registers.entry_regs(entry))
    vcpu.set_fpu(registers.entry_fpu())
    sregs = vcpu.sregs()
    registers.set_entry_sregs(sregs, entry)
    vcpu.set_sregs(sregs)
    lapic = vcpu.lapic()
    registers.set_virtual_wire(lapic)
    vcpu.set_lapic(lapic)


def _words(entry: CpuidEntry2) -> tuple[int, ...]:
    return tuple(getattr(entry, name) for name in CpuidEntry._fields)
