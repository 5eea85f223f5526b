"""The PC around the processors: interrupt chips, timer, legacy devices, and vCPU set-up.

What stands where is in :mod:`vmm.x86.layout`. The order of the KVM calls is the one that works on
every host: interrupt chips before vCPUs, CPUID before MSRs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from vmm.bus import Bus
from vmm.kvm.structs import CpuidEntry2
from vmm.kvm.system import KVM_CAP_TSC_DEADLINE_TIMER, Kvm
from vmm.kvm.vcpu import KVM_MP_STATE_HALTED, Vcpu
from vmm.kvm.vm import Vm
from vmm.legacy import debug_exit, i8042, pvpanic, serial
from vmm.legacy.debug_exit import DebugExit
from vmm.legacy.i8042 import I8042
from vmm.legacy.irq import IrqLine
from vmm.legacy.pvpanic import Pvpanic
from vmm.legacy.serial import Serial16550A
from vmm.memory import GuestRam
from vmm.x86 import layout, registers
from vmm.x86.cpuid import CpuidEntry, guest_cpuid

_SOFTWARE_KVM_MODULE = Path("/sys/module/kvm_pvm")


def is_emulated_host() -> bool:
    """Whether KVM here works without hardware virtualization: guest kernels are emulated."""
    return _SOFTWARE_KVM_MODULE.exists()


def host_kind() -> str:
    """Return what guest kernels run on here, in words."""
    if is_emulated_host():
        return "KVM without hardware virtualization (guest kernel code is emulated)"
    return "KVM with hardware virtualization"


# An emulated kernel has no XSAVE and saves registers with FXSAVE, but CPUID at CPL 3 is the host's
# and tells programs of AVX: two that both use it would find each other's upper halves in their
# registers. This keeps glibc's string functions, the only users in most guests, to SSE; the kernel
# puts it into the environment of init.
_NO_AVX_IN_GLIBC: Final = (
    "GLIBC_TUNABLES=glibc.cpu.hwcaps="
    "-AVX512F,-AVX512VL,-AVX512BW,-AVX2,-AVX,-AVX_Fast_Unaligned_Load"
)
_FOR_EVERY_HOST: Final = (
    "reboot=k panic=-1 pci=off noreplace-smp i8042.noaux i8042.nomux i8042.dumbkbd"
)
# clearcpuid: of what KVM's emulator lacks, and of string instructions that it takes by the byte.
_FOR_EMULATED_KERNELS: Final = (
    f"tsc=reliable mitigations=off rodata=off clearcpuid=xsave,erms,fsrm {_NO_AVX_IN_GLIBC}"
)


def default_cmdline(console: str) -> str:
    """Return the kernel parameters that suit a machine of ours on this host, whatever the guest.

    ``console`` is the guest's name of its console, such as ``ttyS0``.
    """
    words = f"console={console} {_FOR_EVERY_HOST}"
    return f"{words} {_FOR_EMULATED_KERNELS}" if is_emulated_host() else words


def create_chips(vm: Vm) -> None:
    """Create what must exist before the first vCPU: TSS pages, interrupt chips, timer."""
    vm.set_tss_address(layout.KVM_TSS)
    vm.create_irqchip()
    vm.create_pit()


def map_memory(vm: Vm, ram: GuestRam) -> None:
    """Make the guest's RAM known to KVM, a slot per region."""
    for slot, (address, length) in enumerate(ram.regions):
        view = ram.view(address, length)
        vm.set_memory(slot, address, view)
        view.release()


class GuestEvents(NamedTuple):
    """What the guest does through a PC's own devices; each is called on a vCPU's thread.

    ``output`` takes bytes of the serial port; ``reset`` a request for a reset; ``status`` what the
    guest wrote to the debug-exit port; ``panic`` the bits it wrote to the pvpanic port.
    """

    output: Callable[[bytes], object]
    reset: Callable[[], object]
    status: Callable[[int], object]
    panic: Callable[[int], object]


class LegacyDevices:
    """The devices of a PC that Linux expects without being told, on ``ports``.

    ``line`` makes the interrupt line of a GSI.
    """

    def __init__(self, ports: Bus, line: Callable[[int], IrqLine], events: GuestEvents) -> None:
        self.serial = Serial16550A(line(serial.COM1_IRQ), events.output)
        self.i8042 = I8042(line(i8042.KEYBOARD_IRQ), events.reset)
        ports.add(serial.COM1_BASE, serial.PORT_COUNT, self.serial, "serial")
        ports.add(i8042.DATA_PORT, 1, self.i8042, "i8042 data", i8042.DATA_OFFSET)
        ports.add(i8042.COMMAND_PORT, 1, self.i8042, "i8042 command", i8042.COMMAND_OFFSET)
        ports.add(
            debug_exit.DEBUG_EXIT_PORT,
            debug_exit.PORT_COUNT,
            DebugExit(events.status),
            "debug-exit",
        )
        ports.add(pvpanic.PVPANIC_PORT, pvpanic.PORT_COUNT, Pvpanic(events.panic), "pvpanic")


def set_up_vcpu(kvm: Kvm, vcpu: Vcpu, cpus: int, entry: registers.EntryPoint) -> None:
    """Bring a new vCPU into the state in which the kernel is entered."""
    supported = [CpuidEntry(*_words(found)) for found in kvm.supported_cpuid()]
    tsc_deadline = bool(kvm.check(KVM_CAP_TSC_DEADLINE_TIMER))
    entries = guest_cpuid(
        supported, vcpu.index, cpus, emulated=is_emulated_host(), tsc_deadline=tsc_deadline
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


def position(vcpu: Vcpu) -> str:
    """Return where a vCPU is, in one line."""
    regs, sregs = vcpu.regs(), vcpu.sregs()
    mode = "user" if sregs.cs.selector & 3 else "kernel"
    halted = ", halted" if vcpu.mp_state() == KVM_MP_STATE_HALTED else ""
    return (
        f"vCPU {vcpu.index}: rip {regs.rip:#x} ({mode}{halted}), rsp {regs.rsp:#x},"
        f" rflags {regs.rflags:#x}, cr3 {sregs.cr3:#x}"
    )
