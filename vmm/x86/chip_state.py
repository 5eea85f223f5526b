"""The state of interrupt chips, timer and clock in KVM, as a plain value, and back.

KVM api.rst "KVM_GET_IRQCHIP", "KVM_GET_PIT2", "KVM_GET_CLOCK".
"""

import struct
from dataclasses import dataclass
from typing import Annotated, Final

from virtio.errors import ConfigurationError
from virtio.saved import U64, check_saved
from vmm.kvm.ioctl import get_bytes, ioctl, set_bytes
from vmm.kvm.vm import Vm
from vmm.x86.chips import (
    KVM_IRQCHIP_IOAPIC,
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
)
from vmm.x86.kvm.chips import (
    KVM_GET_CLOCK,
    KVM_GET_IRQCHIP,
    KVM_GET_PIT2,
    KVM_SET_CLOCK,
    KVM_SET_IRQCHIP,
    KVM_SET_PIT2,
    ClockData,
    Irqchip,
)
from vmm.x86.vcpu_state import exactly

_CHIPS: Final = (KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC)

_CHIP_ID: Final = struct.Struct("<I")  # struct kvm_irqchip begins with it

IrqchipBytes = Annotated[bytes, exactly(KVM_GET_IRQCHIP)]


@dataclass(frozen=True, slots=True)
class ChipState:
    """The parts of a PC in the kernel, beside its vCPUs.

    ``irqchips`` are the two 8259s and the IOAPIC, ``pit`` is the 8254, each as KVM gave it;
    ``clock_ns`` is the guest's kvmclock in nanoseconds.
    """

    irqchips: tuple[IrqchipBytes, IrqchipBytes, IrqchipBytes]
    pit: Annotated[bytes, exactly(KVM_GET_PIT2)]
    clock_ns: U64


def save_chips(vm: Vm) -> ChipState:
    """Return the state of the chips while no vCPU runs."""
    clock = ClockData()
    ioctl(vm.fd, KVM_GET_CLOCK, clock)
    return ChipState(
        irqchips=(_chip(vm, _CHIPS[0]), _chip(vm, _CHIPS[1]), _chip(vm, _CHIPS[2])),
        pit=get_bytes(vm.fd, KVM_GET_PIT2),
        clock_ns=clock.clock,
    )


def restore_chips(vm: Vm, state: ChipState) -> None:
    """Bring the chips of a new machine into a saved state, once its vCPUs have theirs.

    The clock goes on where it was: for the guest no time has passed (``KVM_CLOCK_REALTIME`` would
    let it jump, and with it every timer in the guest expire at once). Raises
    :class:`ConfigurationError` for a state of another form, :class:`HostError` for one that KVM
    refuses.
    """
    check_saved("chips", state)
    for number, chip in zip(_CHIPS, state.irqchips, strict=True):
        if _CHIP_ID.unpack_from(chip) != (number,):
            raise ConfigurationError(f"saved chips: irqchips[{number}] is of another chip")
    for chip in state.irqchips:
        set_bytes(vm.fd, KVM_SET_IRQCHIP, chip)
    set_bytes(vm.fd, KVM_SET_PIT2, state.pit)
    ioctl(vm.fd, KVM_SET_CLOCK, ClockData(clock=state.clock_ns))


def _chip(vm: Vm, number: int) -> bytes:
    chip = Irqchip(chip_id=number)
    ioctl(vm.fd, KVM_GET_IRQCHIP, chip)
    return bytes(chip)
