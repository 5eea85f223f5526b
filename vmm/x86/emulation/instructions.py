"""The instructions whose effect a decoder's operands and a few lines describe.

Chosen by what kernels run at CPL 0 and KVM's emulator has no code for: population counts of the
scheduler, CRC32C of file systems, the BMI shifts that the BPF compiler emits, the long
multiplication of WireGuard's curve, segment checks of the interrupt entries. Flags are exact:
Intel SDM volume 2, "Flags Affected" of each. What the manual leaves undefined keeps its value.
"""

import os
import threading
from collections.abc import Callable
from typing import Final

from vmm.x86.emulation import bits, descriptors
from vmm.x86.emulation.cpu import GuestFault
from vmm.x86.emulation.flags import CF, OF, SF, STATUS, ZF, assign, when
from vmm.x86.emulation.operation import Operation

Handler = Callable[[Operation], None]

_GENERAL_PROTECTION: Final = 13
_MSR_TSC: Final = 0x10
_MSR_TSC_AUX: Final = 0xC0000103

# Makes the compare and the store one step among our own vCPU threads. It cannot exclude a vCPU
# that changes the same bytes by other instructions; a guest with several vCPUs should not see CX16.
_locked = threading.Lock()


def popcnt(step: Operation) -> None:
    """POPCNT r, r/m."""
    source = step.read(1)
    step.write(0, source.bit_count())
    assign(step.regs, STATUS, when(source == 0, ZF))


def andn(step: Operation) -> None:
    """ANDN r, r, r/m: the third operand without the bits of the second."""
    result = ~step.read(1) & step.read(2)
    _store(step, result, SF | ZF | CF | OF)


def bextr(step: Operation) -> None:
    """BEXTR r, r/m, r: a field of bits; start in bits 7:0 of the third operand, length in 15:8."""
    control = step.read(2)
    start, length = control & 0xFF, control >> 8 & 0xFF
    _store(step, step.read(1) >> start & (1 << length) - 1, ZF | CF | OF)


def blsi(step: Operation) -> None:
    """BLSI r, r/m: the lowest set bit alone."""
    source = step.read(1)
    _store(step, source & -source, SF | ZF | CF | OF, carry=source != 0)


def blsmsk(step: Operation) -> None:
    """BLSMSK r, r/m: a mask up to and with the lowest set bit."""
    source = step.read(1)
    _store(step, source ^ (source - 1), SF | ZF | CF | OF, carry=source == 0)


def blsr(step: Operation) -> None:
    """BLSR r, r/m: the value without its lowest set bit."""
    source = step.read(1)
    _store(step, source & (source - 1), SF | ZF | CF | OF, carry=source == 0)


def bzhi(step: Operation) -> None:
    """BZHI r, r/m, r: the bits below the index in bits 7:0 of the third operand."""
    index = step.read(2) & 0xFF
    result = step.read(1) & (1 << index) - 1
    _store(step, result, SF | ZF | CF | OF, carry=index > step.width(0) - 1)


def shlx(step: Operation) -> None:
    """SHLX r, r/m, r: shift left, no flags."""
    step.write(0, step.read(1) << _count(step, step.read(2)))


def shrx(step: Operation) -> None:
    """SHRX r, r/m, r: shift right, no flags."""
    step.write(0, step.read(1) >> _count(step, step.read(2)))


def sarx(step: Operation) -> None:
    """SARX r, r/m, r: shift right and keep the sign, no flags."""
    step.write(0, bits.signed(step.read(1), step.width(0)) >> _count(step, step.read(2)))


def rorx(step: Operation) -> None:
    """RORX r, r/m, imm8: rotate right, no flags."""
    width = step.width(0)
    count = _count(step, step.instruction.immediate8)
    step.write(0, bits.rotate_right(step.read(1), count, width))


def mulx(step: Operation) -> None:
    """MULX high, low, r/m: EDX or RDX times the operand, no flags; high wins if both are one."""
    width = step.width(0)
    product = (step.regs.rdx & (1 << width) - 1) * step.read(2)
    step.write(1, product)
    step.write(0, product >> width)


def pdep(step: Operation) -> None:
    """PDEP r, r, r/m: the low bits of the second operand, laid out by the mask, no flags."""
    step.write(0, bits.deposit(step.read(1), step.read(2)))


def pext(step: Operation) -> None:
    """PEXT r, r, r/m: the bits of the second operand that the mask selects, no flags."""
    step.write(0, bits.extract(step.read(1), step.read(2)))


def adcx(step: Operation) -> None:
    """ADCX r, r/m: add with carry in CF alone."""
    _add_with(step, CF)


def adox(step: Operation) -> None:
    """ADOX r, r/m: add with carry in OF alone."""
    _add_with(step, OF)


def crc32(step: Operation) -> None:
    """CRC32 r, r/m: accumulate CRC-32C (Castagnoli), no flags."""
    length = step.width(1) // 8
    data = step.read(1).to_bytes(length, "little")
    step.write(0, bits.crc32c(step.read(0) & 0xFFFFFFFF, data))


def rdrand(step: Operation) -> None:
    """RDRAND r and RDSEED r: randomness of the host, which is always there (CF=1)."""
    step.write(0, int.from_bytes(os.urandom(8), "little"))
    assign(step.regs, STATUS, CF)


def rdtscp(step: Operation) -> None:
    """RDTSCP: the guest's time-stamp counter in EDX:EAX, TSC_AUX in ECX."""
    counter = step.cpu.msr(_MSR_TSC)
    step.regs.rax = counter & 0xFFFFFFFF
    step.regs.rdx = counter >> 32
    step.regs.rcx = step.cpu.msr(_MSR_TSC_AUX) & 0xFFFFFFFF


def cmpxchg16b(step: Operation) -> None:
    """CMPXCHG16B m128: RCX:RBX replaces RDX:RAX if that is there; else it is loaded. ZF only."""
    address, regs = step.address(), step.regs
    if address % 16:
        raise GuestFault(_GENERAL_PROTECTION, 0)
    expected, replacement = regs.rdx << 64 | regs.rax, regs.rcx << 64 | regs.rbx
    with _locked:
        found = step.memory.read_integer(address, 16)
        stored = replacement if found == expected else found
        step.memory.write(address, stored.to_bytes(16, "little"))
    regs.rax, regs.rdx = found & (1 << 64) - 1, found >> 64
    assign(regs, ZF, when(found == expected, ZF))


def clwb(step: Operation) -> None:
    """CLWB m8: nothing, for a guest sees no cache; but the address must be mapped."""
    step.read(0)


HANDLERS: Final[dict[str, Handler]] = {
    "adcx": adcx,
    "adox": adox,
    "andn": andn,
    "bextr": bextr,
    "blsi": blsi,
    "blsmsk": blsmsk,
    "blsr": blsr,
    "bzhi": bzhi,
    "clwb": clwb,
    "cmpxchg16b": cmpxchg16b,
    "crc32": crc32,
    "lar": descriptors.lar,
    "lsl": descriptors.lsl,
    "mulx": mulx,
    "pdep": pdep,
    "pext": pext,
    "popcnt": popcnt,
    "rdrand": rdrand,
    "rdseed": rdrand,
    "rdtscp": rdtscp,
    "rorx": rorx,
    "sarx": sarx,
    "shlx": shlx,
    "shrx": shrx,
    "verr": descriptors.verr,
    "verw": descriptors.verw,
}


def _store(step: Operation, result: int, defined: int, *, carry: bool = False) -> None:
    """Write a result to operand 0 and set, of the ``defined`` flags, SF and ZF from it."""
    width = step.width(0)
    result &= (1 << width) - 1
    step.write(0, result)
    value = when(result == 0, ZF) | when(result >> width - 1 == 1, SF) | when(carry, CF)
    assign(step.regs, defined, value)


def _add_with(step: Operation, flag: int) -> None:
    total = step.read(0) + step.read(1) + when(step.regs.rflags & flag != 0, 1)
    carry = total >> step.width(0) != 0
    step.write(0, total)
    assign(step.regs, flag, when(carry, flag))


def _count(step: Operation, count: int) -> int:
    return count & step.width(0) - 1
