"""Decodes an instruction and finds its handler. Importing this module imports the decoder."""

from typing import Final

from vmm.x86.emulation.cpu import CannotEmulate
from vmm.x86.emulation.disassembler import Decoder, Instruction, Mnemonic
from vmm.x86.emulation.instructions import HANDLERS, Handler
from vmm.x86.emulation.operation import Operation
from vmm.x86.emulation.state import LONGEST_INSTRUCTION_BYTES, State

_BY_MNEMONIC: Final[dict[int, tuple[str, Handler]]] = {
    getattr(Mnemonic, name.upper()): (name, handler) for name, handler in HANDLERS.items()
}


def decode(code: bytes, rip: int, bitness: int = 64) -> Instruction:
    """Return the first instruction of ``code``, which lies at ``rip``; it may be invalid."""
    return Decoder(bitness, code, ip=rip).decode()


def emulate_decoded(state: State, given: bytes) -> str:
    """Emulate the instruction at RIP and return its mnemonic; raises CannotEmulate."""
    if state.privilege_level != 0:
        raise CannotEmulate(f"the code runs at CPL {state.privilege_level}, not 0")
    if not state.is_64_bit:
        raise CannotEmulate("the code is not 64-bit")
    instruction = _decode_whole(state, given)
    if instruction.mnemonic not in _BY_MNEMONIC:
        raise CannotEmulate("it is not among the instructions emulated here")
    name, handler = _BY_MNEMONIC[instruction.mnemonic]
    handler(Operation(instruction, state))
    state.retire(instruction.len)
    return name


def _decode_whole(state: State, given: bytes) -> Instruction:
    instruction = decode(given, state.regs.rip)
    if instruction.is_invalid:
        instruction = decode(state.code(given, LONGEST_INSTRUCTION_BYTES), state.regs.rip)
    if instruction.is_invalid:
        raise CannotEmulate("the bytes are not an instruction, or not all of it is mapped")
    return instruction
