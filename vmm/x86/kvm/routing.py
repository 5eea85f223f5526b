"""The routes that KVM gives the GSIs of a PC when it makes the chips.

Linux ``arch/x86/kvm/irq_comm.c``, ``default_routing``: 0 to 15 reach the 8259s and the IOAPIC, 16
to 23 the IOAPIC alone.
"""

from typing import Final

from vmm.kvm import structs

KVM_IRQ_ROUTING_IRQCHIP: Final = 1
KVM_IRQCHIP_IOAPIC: Final = 2

ISA_LINES: Final = 16
IOAPIC_LINES: Final = 24


def chip_routes() -> list[structs.IrqRoutingEntry]:
    """Return these routes, which must be part of whatever routing is set."""
    pins = [(line, line // 8, line % 8) for line in range(ISA_LINES)]
    pins += [(line, KVM_IRQCHIP_IOAPIC, line) for line in range(IOAPIC_LINES)]
    return [_entry(*pin) for pin in pins]


def _entry(gsi: int, chip: int, pin: int) -> structs.IrqRoutingEntry:
    entry = structs.IrqRoutingEntry(gsi=gsi, type=KVM_IRQ_ROUTING_IRQCHIP)
    entry.u[0], entry.u[1] = chip, pin
    return entry
