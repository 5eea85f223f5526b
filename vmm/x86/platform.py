"""The PC around the processors: RAM as KVM knows it, chips, legacy devices, and the vCPUs.

Where everything stands is in :mod:`vmm.x86.layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from virtio.errors import ConfigurationError
from vmm.bus import Bus
from vmm.kvm.system import Kvm
from vmm.kvm.vm import Vm
from vmm.legacy.irq import IrqLine
from vmm.legacy.serial import Serial16550A
from vmm.memory import PAGE_BYTES, GuestRam
from vmm.topology import CpuTopology
from vmm.x86.apic_ids import apic_id, apic_ids
from vmm.x86.boot.boot import BootSource, write_boot
from vmm.x86.boot.entry import EntryPoint
from vmm.x86.chips import create_chips
from vmm.x86.emulation import Emulator
from vmm.x86.kvm.vcpu import Vcpu
from vmm.x86.layout import VirtioMmioWindow
from vmm.x86.legacy_devices import GuestEvents, LegacyDevices
from vmm.x86.vcpu_setup import set_up_vcpu

if TYPE_CHECKING:
    from vmm.x86.acpi.machine import AcpiDevices
    from vmm.x86.pci import PciHost
    from vmm.x86.state import PlatformState
    from vmm.x86.vcpu_state import VcpuState


class Platform:
    """The PC that a guest finds around its processors.

    ``ports`` is the bus of port I/O, ``line`` makes the interrupt line of a GSI, ``events``
    hears of what the guest does through the PC's own devices, ``topology`` is of its processors.
    With ``log_writes`` there is :meth:`guest_writes`.

    The calls of KVM come in the one order that works on every host: chips before vCPUs, CPUID
    before MSRs.
    """

    def __init__(
        self,
        kvm: Kvm,
        vm: Vm,
        ram: GuestRam,
        ports: Bus,
        line: Callable[[int], IrqLine],
        events: GuestEvents,
        topology: CpuTopology,
        *,
        log_writes: bool = False,
    ) -> None:
        self._kvm = kvm
        self._vm = vm
        self._ram = ram
        self._ports = ports
        self._line = line
        self._events = events
        self._topology = topology
        self._acpi: AcpiDevices | None = None
        self._msrs: list[int] | None = None
        self._emulators: list[Emulator] = []
        _map_memory(vm, ram, log_writes=log_writes)  # before the chips: see there
        create_chips(vm)
        self._devices = LegacyDevices(ports, line, events)
        self._ports = ports
        self._events = events
        self.pci: PciHost | None = None

    def add_pci(self, mmio: Bus) -> PciHost:
        """Give the PC a PCI bus, on its ports and on ``mmio``, the bus of memory-mapped I/O."""
        from vmm.x86.pci import PciHost

        end = max(start + size for start, size in self._ram.regions)
        reset = self._events.reset
        self.pci = PciHost(self._kvm, self._vm, self._ports, mmio, reset, ram_end=end)
        return self.pci

    @property
    def serial(self) -> Serial16550A:
        """The first serial port."""
        return self._devices.serial

    def load(
        self,
        source: BootSource,
        *,
        windows: Sequence[VirtioMmioWindow],
        pci_slots: Sequence[int],
    ) -> EntryPoint:
        """Put the guest into RAM, with tables of its processors and of the places of its devices.

        ``pci_slots`` are those in which a device is or may be plugged later. Raises
        :class:`ConfigurationError` when the source cannot be booted in this machine.
        """
        slots = () if self.pci is None else (0, *pci_slots)
        if source.acpi:
            self._add_acpi().begin()
        ids = apic_ids(self._topology)
        return write_boot(self._ram, source, apic_ids=ids, windows=windows, pci_slots=slots)

    def create_vcpu(self, index: int) -> Vcpu:
        """Create vCPU ``index``; KVM gets to know it by its APIC ID."""
        return self._vm.create_vcpu(index, Vcpu, apic_id(index, self._topology))

    def set_up_vcpu(self, vcpu: Vcpu, entry: EntryPoint) -> None:
        """Bring a new vCPU to the kernel's entry point."""
        set_up_vcpu(self._kvm, vcpu, self._topology, entry)

    def emulator(self, vcpu: Vcpu) -> Emulator:
        """Return an emulator of the instructions that KVM's lacks, for one vCPU."""
        emulator = Emulator(self._ram)
        emulator.use_native(vcpu)
        self._emulators.append(emulator)
        return emulator

    def state(self) -> PlatformState:
        """Return the state of chips and legacy devices while no vCPU runs."""
        from vmm.x86.chip_state import save_chips
        from vmm.x86.state import PlatformState

        devices = self._devices
        return PlatformState(
            save_chips(self._vm),
            devices.serial.state(),
            devices.i8042.state(),
            None if self.pci is None else self.pci.state(),
            None if self._acpi is None else self._acpi.registers.state(),
        )

    def restore(self, state: PlatformState) -> None:
        """Bring chips and legacy devices into a saved state, once the vCPUs have theirs.

        Chips before devices: a device raises its pending interrupt again.
        """
        from vmm.x86.chip_state import restore_chips

        if (self.pci is None) != (state.pci is None):
            raise ConfigurationError("saved machine: has PCI, or has not, unlike its configuration")
        restore_chips(self._vm, state.chips)
        self._devices.serial.restore(state.serial)
        self._devices.i8042.restore(state.i8042)
        if self.pci is not None and state.pci is not None:
            self.pci.restore(state.pci)
        if state.acpi is not None:
            self._add_acpi().restore(state.acpi)

    def press_power_button(self) -> bool:
        """Ask the guest to switch itself off; False when no driver of its would hear.

        What the guest does then is up to its programs. Any thread may call this.
        """
        return self._acpi is not None and self._acpi.press_power_button()

    def vcpu_state(self, vcpu: Vcpu) -> VcpuState:
        """Return the state of a vCPU that is out of the guest."""
        from vmm.x86.vcpu_state import save_vcpu

        return save_vcpu(vcpu, self._saved_msrs())

    @property
    def emulator_writes(self) -> int:
        """How often our emulator may have written to guest memory so far."""
        return sum(one.writes for one in self._emulators)

    def guest_writes(self) -> list[bytes]:
        """Return a bitmap for each region of RAM: the pages that the guest wrote since last asked.

        What our devices and our emulator write is not in it.
        """
        regions = self._ram.regions
        return [
            self._vm.written_pages(slot, size // PAGE_BYTES)
            for slot, (_, size) in enumerate(regions)
        ]

    def prepare_to_save(self) -> None:
        """Ask ``/dev/kvm``, which a confined machine closes, for all that saving needs of it."""
        self._saved_msrs()

    def _saved_msrs(self) -> list[int]:
        from vmm.x86.kvm.msr import msr_indices

        if self._msrs is None:
            self._msrs = msr_indices(self._kvm)
        return self._msrs

    def restore_vcpu(self, vcpu: Vcpu, state: VcpuState) -> None:
        """Bring a new vCPU into a saved state."""
        from vmm.x86.vcpu_state import restore_vcpu

        restore_vcpu(vcpu, state)

    def _add_acpi(self) -> AcpiDevices:
        from vmm.x86.acpi.machine import AcpiDevices

        self._acpi = AcpiDevices(self._vm, self._ram, self._ports, self._line, self._events)
        return self._acpi


def _map_memory(vm: Vm, ram: GuestRam, *, log_writes: bool) -> None:
    """Make the guest's RAM known to KVM, a slot per region; to be done before the chips exist.

    The problem. KVM publishes a new set of memory slots and then waits until no vCPU can still use
    the old one: ``synchronize_srcu_expedited(&kvm->srcu)`` in ``kvm_swap_active_memslots``. Each
    chip that is created joins KVM's I/O buses, which are published under the same SRCU
    (``kvm_io_bus_register_dev``), so a slot set after the chips waits for their grace periods too.

    What does not work. With the chips first, setting a slot takes 4 to 7 ms on a quiet host, and
    15 ms on a busy one where it takes 0.1 ms without chips (lower quartiles of 60 machines, Linux
    6.18). Machines with more than 3 GiB have two slots.

    What we do. All slots are set while the machine has neither chips nor vCPUs.

    What remains. A slot that is added to a running guest would wait; nothing here adds one.
    """
    for slot, (address, length) in enumerate(ram.regions):
        view = ram.view(address, length)
        vm.set_memory(slot, address, view, log_writes=log_writes)
        view.release()
