"""The bits of RFLAGS, and setting them as instructions do: Intel SDM volume 1 "EFLAGS Register"."""

from typing import Final

from vmm.x86.kvm.registers import Regs

CF: Final = 1 << 0
RESERVED: Final = 1 << 1  # reads as one
PF: Final = 1 << 2
AF: Final = 1 << 4
ZF: Final = 1 << 6
SF: Final = 1 << 7
TF: Final = 1 << 8
IF: Final = 1 << 9
OF: Final = 1 << 11
RF: Final = 1 << 16
AC: Final = 1 << 18

STATUS: Final = CF | PF | AF | ZF | SF | OF


def assign(regs: Regs, defined: int, value: int) -> None:
    """Give the flags in the mask ``defined`` their bits of ``value``; the others keep theirs."""
    regs.rflags = regs.rflags & ~defined | value & defined


def when(condition: bool, flag: int) -> int:
    """Return ``flag`` if the condition holds, else 0."""
    return flag if condition else 0
