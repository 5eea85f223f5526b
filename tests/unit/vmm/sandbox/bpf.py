"""A machine for classic BPF, as the kernel has one: linux/filter.h, kernel/seccomp.c."""

import struct
from collections.abc import Sequence

SECCOMP_DATA = struct.Struct("<iIQ6Q")


def run(program: bytes, number: int, architecture: int, arguments: Sequence[int]) -> int:
    """Return the answer of a filter to a system call."""
    data = SECCOMP_DATA.pack(number, architecture, 0, *arguments)
    code = list(struct.iter_unpack("<HBBI", program))
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, k = code[at]
        at += 1
        if operation == 0x20:
            assert k % 4 == 0
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif operation == 0x54:
            accumulator &= k
        elif operation == 0x05:
            at += k
        elif operation == 0x15:
            at += if_true if accumulator == k else if_false
        elif operation == 0x35:
            at += if_true if accumulator >= k else if_false
        elif operation == 0x06:
            return int(k)
        else:
            raise AssertionError(f"instruction {operation:#x} at {at - 1}")
