"""Fuzz the sandbox's decisions: the filters as the kernel runs them, against the policy's table.

Input: calls of 56 bytes: number, architecture (xor that of x86-64, so that 0 is ours), and six
arguments. After each: the answer is the table's, and keeps what the threat model promises, which
is written here without the table; filters of threads end no process, and the mode ``log`` refuses
nothing.
"""

import struct
from collections.abc import Sequence
from typing import Final

from tests import bpf
from vmm.sandbox.policy import policy
from vmm.sandbox.process import _asking
from vmm.sandbox.program import Soften, program
from vmm.sandbox.threads import _milder
from vmm.x86 import RUNNING_REQUESTS, SYSTEM_CALLS

CALL = struct.Struct("<II6Q")
CALLS_MAX: Final = 32
PROCESS: Final = 4242

X86_64: Final = 0xC000_003E
X32_BIT: Final = 0x4000_0000
ALLOW, KILL = 0x7FFF_0000, 0x8000_0000
EPERM, ENOSYS, ASK = 0x0005_0001, 0x0005_0026, 0x7FC0_0000

NAMES: Final = {number: name for name, number in SYSTEM_CALLS.items()}
LAST: Final = max(NAMES)
REQUESTS: Final = {one.number for one in RUNNING_REQUESTS}
POLICY: Final = policy(REQUESTS, PROCESS)
NEVER: Final = (
    *("open", "openat", "openat2", "creat", "execve", "execveat", "fork", "vfork", "clone3"),
    *("socket", "connect", "ptrace", "io_uring_setup", "bpf", "unshare", "setns", "mount"),
    *("process_vm_readv", "process_vm_writev", "pidfd_getfd", "tkill", "seccomp"),
)
SIGTSTP: Final = 20
THREAD_FLAGS: Final = 0x3D0F00


def _filter(soften: Soften = lambda action: action) -> bytes:
    return program(
        POLICY, SYSTEM_CALLS, architecture=X86_64, foreign_numbers=X32_BIT, soften=soften
    )


STRICT, OF_THREADS, LOGGING = _filter(), _filter(_milder), _filter(_asking)


def one_input(data: bytes) -> None:
    """Run one input."""
    data = data[: CALLS_MAX * CALL.size]
    whole = data[: len(data) // CALL.size * CALL.size]
    for number, architecture, *arguments in CALL.iter_unpack(whole):
        _check(number, architecture ^ X86_64, arguments)


def _check(number: int, architecture: int, arguments: Sequence[int]) -> None:
    signed = number - (1 << 32) if number >> 31 else number
    found = bpf.run(STRICT, signed, architecture, arguments)
    assert found == _expected(number, architecture, arguments), "not what the policy says"
    if found == ALLOW:
        assert architecture == X86_64, "a call of another architecture"
        _check_allowed(NAMES[number], [one & 0xFFFF_FFFF for one in arguments])
    of_threads = bpf.run(OF_THREADS, signed, architecture, arguments)
    assert of_threads == (EPERM if found == KILL else found), "threads get another answer"
    asked = bpf.run(LOGGING, signed, architecture, arguments)
    assert asked == (found if found in (ALLOW, ENOSYS) else ASK), "the log does not tell"


def _expected(number: int, architecture: int, arguments: Sequence[int]) -> int:
    if architecture != X86_64 or number >= X32_BIT:
        return KILL
    if number > LAST:
        return ENOSYS
    rule = POLICY.get(NAMES.get(number, ""))
    return rule.action(arguments) if rule is not None else KILL


def _check_allowed(name: str, arguments: Sequence[int]) -> None:
    """Assert what holds whatever the table says, of the halves that the kernel looks at."""
    assert name not in NEVER, f"{name} is allowed"
    if name in ("mmap", "mprotect"):
        assert not arguments[2] & 4, "executable memory"
    elif name == "clone":
        assert arguments[0] & ~0x40_0000 == THREAD_FLAGS, "a process"
    elif name in ("kill", "tgkill"):
        suspends_job = name == "kill" and arguments[:2] == [0, SIGTSTP]
        assert arguments[0] == PROCESS or suspends_job, "a signal to others"
    elif name == "madvise":
        assert arguments[2] not in (11, 12, 17, 100, 101), "advice that undoes or takes"
    elif name == "ioctl" and arguments[1] >> 8 & 0xFF == 0xAE:
        assert arguments[1] in REQUESTS, "a request that no running machine makes"
    elif name == "ioctl":
        assert arguments[1] not in (0x5412, 0x541C), "types into the user's terminal"
