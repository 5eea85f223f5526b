"""Instructions that look at a segment descriptor: LAR, LSL, VERR, VERW (Intel SDM volume 2).

Linux reads its CPU number with LSL where an NMI enters, and runs VERW on the way to user space
because it clears processor buffers; there are none to clear here, but ZF has to be right.
"""

from typing import Final

from virtio.named_tuple import NamedTuple
from vmm.x86.emulation.flags import ZF, assign, when
from vmm.x86.emulation.operation import Operation

_GATE_AND_LIMIT_TYPES: Final = frozenset({0x2, 0x9, 0xB})  # LDT, TSS available, TSS busy
_CALL_GATE: Final = 0xC


class Descriptor(NamedTuple):
    """The two words of a descriptor: Intel SDM volume 3 "Segment Descriptors"."""

    low: int
    high: int

    @property
    def is_segment(self) -> bool:
        """Whether S is set: code or data, not a system descriptor."""
        return bool(self.high & 1 << 12)

    @property
    def type(self) -> int:
        """The four type bits; for segments 8 is code, 4 conforming, 2 readable or writable."""
        return self.high >> 8 & 0xF

    @property
    def dpl(self) -> int:
        """The privilege level, 0 to 3."""
        return self.high >> 13 & 3

    @property
    def is_conforming(self) -> bool:
        """Whether it is conforming code, which every privilege level may look at."""
        return self.is_segment and self.type & 0xC == 0xC

    @property
    def limit_bytes(self) -> int:
        """The limit in bytes, scaled by the G bit."""
        limit = self.high & 0xF0000 | self.low & 0xFFFF
        return limit << 12 | 0xFFF if self.high & 1 << 23 else limit


def lar(step: Operation) -> None:
    """LAR r, r/m16: access rights, ZF=1; or no result, ZF=0."""
    found = _visible(step, 1)
    if found and (found.is_segment or found.type in {*_GATE_AND_LIMIT_TYPES, _CALL_GATE}):
        step.write(0, found.high & 0x00FFFF00)
        assign(step.regs, ZF, ZF)
    else:
        assign(step.regs, ZF, 0)


def lsl(step: Operation) -> None:
    """LSL r, r/m16: limit in bytes, ZF=1; or no result, ZF=0."""
    found = _visible(step, 1)
    if found and (found.is_segment or found.type in _GATE_AND_LIMIT_TYPES):
        step.write(0, found.limit_bytes)
        assign(step.regs, ZF, ZF)
    else:
        assign(step.regs, ZF, 0)


def verr(step: Operation) -> None:
    """VERR r/m16: ZF says whether the segment can be read."""
    found = _visible(step, 0)
    readable = found is not None and found.is_segment and found.type & 0xA != 0x8
    assign(step.regs, ZF, when(readable, ZF))


def verw(step: Operation) -> None:
    """VERW r/m16: ZF says whether the segment can be written."""
    found = _visible(step, 0)
    writable = found is not None and found.is_segment and found.type & 0xA == 0x2
    assign(step.regs, ZF, when(writable, ZF))


def _visible(step: Operation, index: int) -> Descriptor | None:
    """Return the descriptor that an operand selects, None if there is none or it is hidden."""
    selector = step.read(index) & 0xFFFF
    found = _descriptor(step, selector)
    if found is None or found.is_conforming:
        return found
    return found if (selector & 3) <= found.dpl else None  # and CPL is 0


def _descriptor(step: Operation, selector: int) -> Descriptor | None:
    if selector & 0xFFFC == 0:
        return None
    sregs, offset = step.sregs, selector & 0xFFF8
    local = selector & 4
    base = sregs.ldt.base if local else sregs.gdt.base
    limit = sregs.ldt.limit if local else sregs.gdt.limit
    if offset + 7 > limit or (local and (sregs.ldt.unusable or not sregs.ldt.present)):
        return None
    both = step.memory.read_integer(base + offset, 8)
    return Descriptor(both & 0xFFFFFFFF, both >> 32)
