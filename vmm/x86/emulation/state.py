"""The state of a stopped vCPU: registers copied out once, and the memory that it sees."""

from typing import Final

from virtio.memory import GuestMemory
from vmm.x86.emulation.cpu import Cpu
from vmm.x86.emulation.flags import RF, TF
from vmm.x86.emulation.virtual_memory import VirtualMemory

LONGEST_INSTRUCTION_BYTES: Final = 15

_DEBUG: Final = 1
_EFER_LMA: Final = 1 << 10


class State:
    """Registers and memory for one instruction; ``regs`` reaches the vCPU by :meth:`retire`."""

    def __init__(self, cpu: Cpu, memory: GuestMemory) -> None:
        self.cpu = cpu
        self.regs = cpu.regs()
        self.sregs = cpu.sregs()
        self.memory = VirtualMemory(cpu, memory)

    @property
    def privilege_level(self) -> int:
        """The CPL, 0 to 3: SS.DPL, which KVM keeps true in every mode, null SS included."""
        return self.sregs.ss.dpl

    @property
    def is_64_bit(self) -> bool:
        """Whether the code is 64-bit: EFER.LMA and CS.L are set."""
        return bool(self.sregs.efer & _EFER_LMA and self.sregs.cs.l)

    def code(self, given: bytes, wanted: int) -> bytes:
        """Return ``given``; with fewer bytes than ``wanted``, what the guest has after them too."""
        if len(given) >= wanted:
            return given
        base = 0 if self.is_64_bit else self.sregs.cs.base
        found = self.memory.read_code(base + self.regs.rip, LONGEST_INSTRUCTION_BYTES)
        return given + found[len(given) :]

    def retire(self, length: int) -> None:
        """Write the registers back with RIP behind the instruction; trap if single-stepping."""
        self.regs.rip = self.regs.rip + length & (1 << 64) - 1
        self.regs.rflags &= ~RF
        self.cpu.set_regs(self.regs)
        if self.regs.rflags & TF:
            self.cpu.inject_exception(_DEBUG)
