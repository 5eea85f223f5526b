"""Finishes SYSCALL on hosts whose KVM leaves it half done.

What the host does. KVM without hardware virtualization runs guest user code natively and guest
kernel code in its emulator. SYSCALL is a switch between the two, and it stops half-way: RIP is
MSR_LSTAR, RCX the return address, R11 the old RFLAGS, RFLAGS is masked with MSR_SFMASK, but the
privilege level stays 3. So the first fetch at the kernel's entry point faults, and the guest's
own #PF handler is entered with a frame that says so: error code 0x15 (present, user, fetch), RIP
and CR2 equal to LSTAR, a user CS. A kernel would kill the program for a jump into its code.

What we do. With SMAP on, the handler's first instruction is CLAC (after ENDBR64 where indirect
branches are tracked). The emulator cannot execute it, so the vCPU stops there and comes to us
before the handler has pushed or changed anything. We take the frame back off: RIP = LSTAR, RSP
from the frame, RFLAGS = R11 without the bits of SFMASK. CS is the kernel's already, loaded by the
gate, and interrupts, GS base and page tables are as SYSCALL leaves them.

Why all the checks. A mistake here would run the kernel's entry code over a genuine page fault, or
give a user program a system call entry with registers of its choosing. Such a program can jump to
LSTAR itself, with any R11; Linux returns to user mode with the flags of R11, so R11 with IOPL=3
would hand out every I/O port. But the frame holds the true flags: SYSCALL masks them, a jump does
not, and user code cannot clear IF. Therefore the frame's RFLAGS must equal R11 masked by SFMASK,
and SFMASK must mask IF. That RIP is the very start of gate 14 proves that the frame is where RSP
points, and untouched.

What remains. SS is null, as after any interrupt, where SYSCALL would load a flat segment; 64-bit
code cannot tell. CR2 holds LSTAR. And RF is set in R11: Linux keeps it as the program's flags and
so leaves by IRETQ instead of SYSRETQ, which on these hosts loses the user's FS base when the
program was switched out meanwhile. IRETQ loads RF, which lasts one instruction; the program finds
the bit in R11, which a system call does not preserve. Guests without SMAP are not helped: their
handler runs on before anyone can look.

Intel SDM volume 2 "SYSCALL", volume 3 "Interrupt and Exception Handling in 64-bit Mode".
"""

import struct
from typing import Final

from virtio.log import Logger
from virtio.named_tuple import NamedTuple
from vmm.x86.emulation.cpu import CannotEmulate
from vmm.x86.emulation.flags import IF, RESERVED, RF
from vmm.x86.emulation.state import State

logger = Logger(__name__)

_MSR_STAR: Final = 0xC0000081
_MSR_LSTAR: Final = 0xC0000082
_MSR_SFMASK: Final = 0xC0000084

_PAGE_FAULT: Final = 14
_FETCH_BY_USER_OF_PRESENT_PAGE: Final = 0x15
_ENDBR64: Final = bytes.fromhex("f30f1efa")

_FRAME = struct.Struct("<6Q")
_GATE = struct.Struct("<HHBBHII")  # offset 15:0, selector, IST, type, offset 31:16, 63:32, reserved


class InterruptFrame(NamedTuple):
    """The words that a #PF from user mode pushes, from RSP upwards, 8 bytes each."""

    error_code: int
    rip: int
    cs: int
    rflags: int
    rsp: int
    ss: int


def finish_syscall(state: State) -> bool:
    """Turn the #PF of a half-done SYSCALL into the system call, or return False untouched.

    ``state`` is taken at the CLAC; False means that the CLAC is just a CLAC.
    """
    frame = _frame(state)
    if frame is None or frame.rip != state.sregs.cr2:  # nearly always; spares reading LSTAR
        return False
    if frame.rip != state.cpu.msr(_MSR_LSTAR):
        return False
    mask = state.cpu.msr(_MSR_SFMASK)
    objection = _objection_to_frame(frame, state, mask) or _objection_to_handler(state)
    if objection:
        logger.info("page fault at the system call entry, but no SYSCALL: %s", objection)
        return False
    regs = state.regs
    regs.rip = frame.rip
    regs.rsp = frame.rsp
    regs.rflags = _masked(regs.r11, mask)
    regs.r11 |= RF
    state.cpu.set_regs(regs)
    return True


def _frame(state: State) -> InterruptFrame | None:
    if state.privilege_level != 0 or not state.is_64_bit:
        return None
    try:
        return InterruptFrame._make(_FRAME.unpack(state.memory.read(state.regs.rsp, _FRAME.size)))
    except CannotEmulate:
        return None


def _masked(rflags: int, mask: int) -> int:
    return (rflags & ~mask | RESERVED) & ~RF


def _objection_to_frame(frame: InterruptFrame, state: State, mask: int) -> str:
    """Say what in the frame a half-done SYSCALL would not leave; empty if nothing."""
    if frame.error_code != _FETCH_BY_USER_OF_PRESENT_PAGE:
        return f"error code {frame.error_code:#x}"
    if frame.cs & 3 != 3 or frame.ss & 3 != 3:
        return f"CS {frame.cs:#x}, SS {frame.ss:#x} are not a user's"
    if not mask & IF:
        return f"SFMASK {mask:#x} leaves interrupts on"
    if frame.rflags & ~RF != _masked(state.regs.r11, mask):
        return f"RFLAGS {frame.rflags:#x} is not R11 {state.regs.r11:#x} masked by {mask:#x}"
    return ""


def _objection_to_handler(state: State) -> str:
    """Say why RIP is not at the untouched start of the #PF handler; empty if it is."""
    star = state.cpu.msr(_MSR_STAR)
    if state.sregs.cs.selector != star >> 32 & 0xFFFC:
        return f"CS {state.sregs.cs.selector:#x} is not that of STAR {star:#x}"
    try:
        entry = _page_fault_entry(state)
        prologue = state.memory.read(entry, len(_ENDBR64))
    except CannotEmulate as obstacle:
        return str(obstacle)
    clac = entry + len(_ENDBR64) if prologue == _ENDBR64 else entry
    return "" if state.regs.rip == clac else f"RIP {state.regs.rip:#x}, handler at {entry:#x}"


def _page_fault_entry(state: State) -> int:
    address = state.sregs.idt.base + _PAGE_FAULT * _GATE.size
    low, _, _, _, middle, high, _ = _GATE.unpack(state.memory.read(address, _GATE.size))
    return int(low | middle << 16 | high << 32)
