"""Decoding an instruction and finding who completes it. Importing this imports the decoder."""

from typing import Final

from iced_x86 import Decoder, Instruction, Mnemonic

from vmm.x86.emulation.cpu import NotCompletable
from vmm.x86.emulation.instructions import HANDLERS, Handler
from vmm.x86.emulation.operation import Operation
from vmm.x86.emulation.state import LONGEST_INSTRUCTION_BYTES, State

_BY_MNEMONIC: Final[dict[int, tuple[str, Handler]]] = {
    getattr(Mnemonic, name.upper()): (name, handler) for name, handler in HANDLERS.items()
}


def decode(code: bytes, rip: int, bitness: int = 64) -> Instruction:
    """Return the first instruction of ``code``, which lies at ``rip``; it may be invalid."""
    return Decoder(bitness, code, ip=rip).decode()


def complete_decoded(state: State, given: bytes) -> str:
    """Complete the instruction at RIP and return its mnemonic; raises NotCompletable."""
    if state.privilege_level != 0:
        raise NotCompletable(f"the code runs at CPL {state.privilege_level}, not 0")
    if not state.is_64_bit:
        raise NotCompletable("the code is not 64-bit")
    instruction = _decode_whole(state, given)
    if instruction.mnemonic not in _BY_MNEMONIC:
        raise NotCompletable("there is no completion for this instruction")
    name, handler = _BY_MNEMONIC[instruction.mnemonic]
    handler(Operation(instruction, state))
    state.retire(instruction.len)
    return name


def _decode_whole(state: State, given: bytes) -> Instruction:
    instruction = decode(given, state.regs.rip)
    if instruction.is_invalid:
        instruction = decode(state.code(given, LONGEST_INSTRUCTION_BYTES), state.regs.rip)
    if instruction.is_invalid:
        raise NotCompletable("the bytes are not an instruction, or not all of it is mapped")
    return instruction
