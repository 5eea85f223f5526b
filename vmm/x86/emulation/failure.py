"""The report on an instruction that cannot be emulated: what it is, where, and what would help."""

from typing import Final

from vmm.x86.emulation.decoding import decode
from vmm.x86.emulation.disassembler import CpuidFeature, Formatter, FormatterSyntax, Instruction
from vmm.x86.emulation.state import State

_REGISTER_ROWS: Final = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rsp", "rbp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
)
_CONTROL_ROW: Final = ("cr0", "cr2", "cr3", "cr4")

_VECTOR_CODE: Final = (
    "the kernel computes with vector registers (RAID, cryptography, checksums): without hardware"
    " virtualization, leave that code out of its configuration"
)
_HINTS: Final = (  # beginning of the feature's name, what helps
    ("XSAVE", 'boot with "noxsave clearcpuid=xsave", so that the kernel uses FXSAVE'),
    ("INVPCID", 'boot with "nopcid clearcpuid=invpcid"'),
    ("MONITOR", 'boot with "idle=halt"'),
    ("AVX", _VECTOR_CODE),
    ("SSE", _VECTOR_CODE),
    ("MMX", _VECTOR_CODE),
    ("AES", _VECTOR_CODE),
    ("PCLMULQDQ", _VECTOR_CODE),
)


def describe_failure(state: State, code: bytes, reason: str = "") -> str:
    """Return several lines on the instruction at RIP; ``code`` begins with its bytes."""
    instruction = decode(code, state.regs.rip, _bitness(state))
    lines = [
        "neither KVM nor we can emulate an instruction of the guest",
        f"  instruction  {_disassembled(instruction)}",
        f"  bytes        {_hexadecimal(code, instruction)}",
        f"  at           {_place(state)}",
    ]
    lines += [f"  because      {reason}"] if reason else []
    hint = _hint(instruction)
    lines += [f"  what helps   {hint}"] if hint else []
    return "\n".join(lines + _registers(state))


def _bitness(state: State) -> int:
    if state.is_64_bit:
        return 64
    return 32 if state.sregs.cs.db else 16


def _disassembled(instruction: Instruction) -> str:
    if instruction.is_invalid:
        return "(not decodable)"
    return Formatter(FormatterSyntax.GAS).format(instruction)


def _hexadecimal(code: bytes, instruction: Instruction) -> str:
    if not code:
        return "(not readable)"
    whole = code if instruction.is_invalid else code[: instruction.len]
    return whole.hex(" ")


def _place(state: State) -> str:
    selector, mode = state.sregs.cs.selector, f"{_bitness(state)}-bit"
    return f"RIP {state.regs.rip:#x}, CS {selector:#x}, CPL {state.privilege_level}, {mode} code"


def _hint(instruction: Instruction) -> str:
    published = {number: name for name, number in vars(CpuidFeature).items() if name.isupper()}
    features = [] if instruction.is_invalid else instruction.cpuid_features()
    names = [published.get(number, "") for number in features]
    return next((hint for start, hint in _HINTS if any(n.startswith(start) for n in names)), "")


def _registers(state: State) -> list[str]:
    regs, sregs = state.regs, state.sregs
    rows = [[(name, getattr(regs, name)) for name in row] for row in _REGISTER_ROWS]
    rows.append([("rfl", regs.rflags), ("fs", sregs.fs.base), ("gs", sregs.gs.base)])
    rows.append([(name, getattr(sregs, name)) for name in _CONTROL_ROW])
    return ["  " + "  ".join(f"{name:3} {value:016x}" for name, value in row) for row in rows]
