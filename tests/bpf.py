"""A machine for classic BPF, as the kernel has one: linux/filter.h, kernel/seccomp.c."""

import struct
from collections.abc import Sequence
from functools import lru_cache

SECCOMP_DATA = struct.Struct("<iIQ6Q")
WORDS = struct.Struct("<16I")


@lru_cache(4)
def decoded(program: bytes) -> list[tuple[int, int, int, int]]:
    """Return the instructions of a filter, each as code, jump if true, jump if false, constant."""
    return list(struct.iter_unpack("<HBBI", program))


def run(program: bytes, number: int, architecture: int, arguments: Sequence[int]) -> int:
    """Return the answer of a filter to a system call."""
    data = WORDS.unpack(SECCOMP_DATA.pack(number, architecture, 0, *arguments))
    code = decoded(program)
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, k = code[at]
        at += 1
        if operation == 0x15:
            at += if_true if accumulator == k else if_false
        elif operation == 0x05:
            at += k
        elif operation == 0x20:
            assert k % 4 == 0
            accumulator = data[k // 4]
        elif operation == 0x54:
            accumulator &= k
        elif operation == 0x35:
            at += if_true if accumulator >= k else if_false
        elif operation == 0x06:
            return k
        else:
            raise AssertionError(f"instruction {operation:#x} at {at - 1}")
