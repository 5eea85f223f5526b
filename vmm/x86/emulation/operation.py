"""One decoded instruction and the state it works on: operands by index, as the manual numbers them.

Register widths follow Intel SDM volume 1 "General-Purpose Registers in 64-Bit Mode": a 32-bit
result clears the upper half, 16- and 8-bit results keep the rest. Addresses follow "Specifying an
Offset in 64-Bit Mode".
"""

from typing import Final

from vmm.x86.emulation.cpu import CannotEmulate
from vmm.x86.emulation.disassembler import (
    Instruction,
    MemorySizeExt,
    OpKind,
    Register,
    Register_,
    RegisterExt,
)
from vmm.x86.emulation.state import State

_FIELDS: Final = (  # in the order of the register numbers, from Register.RAX
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
_HIGH_BYTES: Final = (Register.AH, Register.CH, Register.DH, Register.BH)
_INSTRUCTION_POINTERS: Final = (Register.RIP, Register.EIP)


class Operation:
    """An instruction in execution; ``regs`` is changed in place and written back by the caller."""

    def __init__(self, instruction: Instruction, state: State) -> None:
        self.instruction = instruction
        self.cpu = state.cpu
        self.regs = state.regs
        self.sregs = state.sregs
        self.memory = state.memory

    def width(self, index: int) -> int:
        """Return the width of an operand in bits."""
        if self.is_memory(index):
            return MemorySizeExt.size(self.instruction.memory_size) * 8
        return RegisterExt.size(self.instruction.op_register(index)) * 8

    def is_memory(self, index: int) -> bool:
        """Return whether an operand is in memory."""
        return self.instruction.op_kind(index) == OpKind.MEMORY

    def read(self, index: int) -> int:
        """Return the unsigned value of a register or memory operand."""
        if self.is_memory(index):
            return self.memory.read_integer(self.address(), self.width(index) // 8)
        register = self.instruction.op_register(index)
        whole: int = getattr(self.regs, _field(register))
        shift = 8 if register in _HIGH_BYTES else 0
        return whole >> shift & (1 << self.width(index)) - 1

    def write(self, index: int, value: int) -> None:
        """Store a value, cut to the operand's width, in a register of 16, 32 or 64 bits."""
        register = self.instruction.op_register(index)
        width, field = self.width(index), _field(register)
        mask = (1 << width) - 1
        kept = getattr(self.regs, field) & ~mask if width == 16 else 0
        setattr(self.regs, field, kept | value & mask)

    def address(self) -> int:
        """Return the linear address of the memory operand."""
        instruction = self.instruction
        offset = instruction.memory_displacement  # of a RIP-relative operand, RIP is in it already
        if instruction.memory_base not in (Register.NONE, *_INSTRUCTION_POINTERS):
            offset += getattr(self.regs, _field(instruction.memory_base))
        if instruction.memory_index != Register.NONE:
            index: int = getattr(self.regs, _field(instruction.memory_index))
            offset += index * instruction.memory_index_scale
        offset &= (1 << self._address_bits()) - 1
        return self._segment_base() + offset & (1 << 64) - 1

    def _address_bits(self) -> int:
        parts = (self.instruction.memory_base, self.instruction.memory_index)
        return 32 if any(RegisterExt.size(part) == 4 for part in parts) else 64

    def _segment_base(self) -> int:
        bases = {Register.FS: self.sregs.fs.base, Register.GS: self.sregs.gs.base}
        return bases.get(self.instruction.memory_segment, 0)


def _field(register: Register_) -> str:
    index = RegisterExt.full_register(register) - Register.RAX
    if not 0 <= index < len(_FIELDS):
        raise CannotEmulate("an operand is not a general register")
    return _FIELDS[index]
