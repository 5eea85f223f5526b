"""The MP table, from which Linux learns of CPUs, IOAPIC and ISA interrupts when there is no ACPI.

Implements the Intel MultiProcessor Specification 1.4, chapter 4.
"""

import struct
from collections.abc import Sequence

from virtio.memory import GuestMemory
from vmm.x86 import layout
from vmm.x86.limits import check_cpus

ISA_INTERRUPTS = 24
ISA_INTERRUPTS_BESIDE_PCI = 16

SPECIFICATION_1_4 = 4
APIC_VERSION = 0x14
ENABLED = 1
BOOTSTRAP = 2
CPU_SIGNATURE = 0x600
FEATURES_FPU_APIC = 0x201
INT, NMI, EXTINT = 0, 1, 3
LEVEL_LOW = 0x000F
"""Trigger and polarity of PCI's lines."""
ALL_APICS = 0xFF

# "_MP_", table address, length in 16 bytes, revision, checksum, feature bytes
_FLOATING_POINTER = struct.Struct("<4sIBBB5s")
# "PCMP", length, revision, checksum, OEM, product, OEM table and its size, entry count,
# local APIC, extended length and checksum, reserved
_HEADER = struct.Struct("<4sHBB8s12sIHHIHBx")
# 0, APIC ID, version, flags, signature, features, reserved
_PROCESSOR = struct.Struct("<BBBBII8x")
_BUS = struct.Struct("<BB6s")
# 2, ID, version, flags, address
_IOAPIC = struct.Struct("<BBBBI")
# 3 or 4, kind, polarity and trigger, source bus, source IRQ, destination APIC, destination pin
_INTERRUPT = struct.Struct("<BBHBBBB")


def write_mp_table(
    memory: GuestMemory, apic_ids: Sequence[int], pci_slots: Sequence[int] = ()
) -> None:
    """Write floating pointer and table where Linux looks: the last KiB of base memory.

    Raises :class:`ConfigurationError` unless there are 1 to 254 processors.
    """
    data = mp_table(apic_ids, layout.MP_TABLE, pci_slots)
    memory.view(layout.MP_TABLE, len(data))[:] = data


def mp_table(apic_ids: Sequence[int], address: int, pci_slots: Sequence[int] = ()) -> bytes:
    """Return floating pointer and configuration table, to stand at ``address``.

    ``apic_ids`` are those of the processors, in ascending order.

    With ``pci_slots`` there is a PCI bus, pin A of whose slots is wired to four lines in turn. Its
    number in the table is its own, 0, so that of the ISA bus is 1 then.
    """
    check_cpus(len(apic_ids))
    table = _table(_entries(apic_ids, pci_slots))
    fields = (b"_MP_", address + _FLOATING_POINTER.size, 1, SPECIFICATION_1_4)
    pointer = _FLOATING_POINTER.pack(*fields, 0, bytes(5))
    return _FLOATING_POINTER.pack(*fields, _checksum(pointer), bytes(5)) + table


def _entries(apic_ids: Sequence[int], pci_slots: Sequence[int]) -> list[bytes]:
    ioapic = apic_ids[-1] + 1
    isa = 1 if pci_slots else 0
    isa_irqs = range(ISA_INTERRUPTS_BESIDE_PCI if pci_slots else ISA_INTERRUPTS)
    flags = [ENABLED | BOOTSTRAP] + [ENABLED] * (len(apic_ids) - 1)
    return [
        *(
            _PROCESSOR.pack(0, apic_id, APIC_VERSION, flag, CPU_SIGNATURE, FEATURES_FPU_APIC)
            for apic_id, flag in zip(apic_ids, flags, strict=True)
        ),
        *([_BUS.pack(1, 0, b"PCI   ")] if pci_slots else []),
        _BUS.pack(1, isa, b"ISA   "),
        _IOAPIC.pack(2, ioapic, APIC_VERSION, ENABLED, layout.IOAPIC),
        *(_INTERRUPT.pack(3, INT, 0, isa, irq, ioapic, irq) for irq in isa_irqs),
        *(
            _INTERRUPT.pack(
                3, INT, LEVEL_LOW, 0, slot << 2, ioapic, layout.PCI_FIRST_IRQ + slot % 4
            )
            for slot in pci_slots
        ),
        _INTERRUPT.pack(4, EXTINT, 0, isa, 0, 0, 0),
        _INTERRUPT.pack(4, NMI, 0, isa, 0, ALL_APICS, 1),
    ]


def _table(entries: list[bytes]) -> bytes:
    body = b"".join(entries)

    def header(checksum: int) -> bytes:
        fields = (b"PCMP", _HEADER.size + len(body), SPECIFICATION_1_4, checksum)
        names = (b"PYVMM   ", b"MICROVM     ")
        return _HEADER.pack(*fields, *names, 0, 0, len(entries), layout.LOCAL_APIC, 0, 0)

    return header(_checksum(header(0) + body)) + body


def _checksum(data: bytes) -> int:
    """Return the byte that makes the sum of ``data`` and itself a multiple of 256."""
    return -sum(data) & 0xFF
