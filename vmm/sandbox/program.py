"""Makes a filter for seccomp(2) of a policy: a program for classic BPF. linux/bpf_common.h.

The program looks at ``struct seccomp_data``: ``int nr; __u32 arch; __u64 instruction_pointer;
__u64 args[6]``. Each call has a block of its own, which ends in an answer. The kernel finds out
which numbers are allowed whatever their arguments, and runs no filter for them (since Linux 5.11,
8e01b51a31a1), so their place in the program costs nothing.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Final

from vmm.sandbox.policy import ENOSYS, KILL_PROCESS, WHOLE, Policy, Rule

LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP: Final = 0x05  # BPF_JMP | BPF_JA
JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_FROM: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
RETURN: Final = 0x06  # BPF_RET | BPF_K

MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS
INSTRUCTION: Final = struct.Struct("=HBBI")  # struct sock_filter: code, jt, jf, k

_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16

Instruction = tuple[int, int, int, int]
Soften = Callable[[int], int]


def program(
    policy: Policy,
    numbers: Mapping[str, int],
    *,
    architecture: int,
    foreign_numbers: int,
    soften: Soften = lambda action: action,
) -> bytes:
    """Return the instructions for ``policy``, as an array of ``struct sock_filter``.

    ``numbers`` are those of all calls of this ``architecture``; those above them are of kernels to
    come, and are answered as by an older one. Calls of another architecture, and numbers from
    ``foreign_numbers`` on, end the process. ``soften`` may make another action of each.
    """
    kill = (RETURN, 0, 0, soften(KILL_PROCESS))
    code: list[Instruction] = [
        (LOAD, 0, 0, _ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, architecture),
        kill,
        (LOAD, 0, 0, _NUMBER),
        (JUMP_FROM, 0, 1, foreign_numbers),
        kill,
    ]
    for name, rule in policy.items():
        block = _block(rule, soften)
        if len(block) == 1:
            code += (JUMP_EQUAL, 0, 1, numbers[name]), *block
        else:
            code += (JUMP_EQUAL, 1, 0, numbers[name]), (JUMP, 0, 0, len(block)), *block
    code += (JUMP_FROM, 0, 1, max(numbers.values()) + 1), (RETURN, 0, 0, soften(ENOSYS)), kill
    assert len(code) <= MAX_INSTRUCTIONS
    return b"".join(INSTRUCTION.pack(*one) for one in code)


def _block(rule: Rule, soften: Soften) -> list[Instruction]:
    code: list[Instruction] = []
    for check in rule.checks:
        code.append((LOAD, 0, 0, _ARGUMENTS + 8 * check.index))  # the low half, on a little endian
        if check.mask != WHOLE:
            code.append((AND, 0, 0, check.mask))
        answer = (RETURN, 0, 0, soften(check.action))
        if check.others:
            count = len(check.values)
            code += ((JUMP_EQUAL, count - at, 0, one) for at, one in enumerate(check.values))
            code.append(answer)
        else:
            for value in check.values:
                code += (JUMP_EQUAL, 0, 1, value), answer
    code.append((RETURN, 0, 0, soften(rule.otherwise)))
    return code
