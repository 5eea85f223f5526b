"""A device that stops at each access to its rings, while the test looks at the memory.

What another processor can see of a ring is what the stores of the device make of it, one by one,
and what it can do to the device depends on the order of its loads: x86-64 keeps both in program
order. The debug registers of the processor, set through ptrace(2), find a torn or early access
every time, where a racing process finds it once in a while.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.spec.races import SharedMemory
from tests.spec.rig import PACKED, SPLIT, Form
from virtio.testing import RingLayout, flat_memory
from virtio.virtqueue.chain import DescriptorChain
from virtio.virtqueue.fence import make_fence

PTRACE_TRACEME, PTRACE_PEEKTEXT, PTRACE_PEEKUSER, PTRACE_POKEUSER = 0, 1, 3, 6
PTRACE_CONT, PTRACE_SINGLESTEP = 7, 9
RIP_OFFSET = 16 * 8
DEBUG_REGISTERS_OFFSET = 848
DR6_OFFSET = DEBUG_REGISTERS_OFFSET + 6 * 8
DR7_OFFSET = DEBUG_REGISTERS_OFFSET + 7 * 8
LOCK_PREFIX = 0xF0

RINGS_AT = 0x1000
WATCHED_BYTES = 0x2000
MAPPED_AT = 0x10
SIZE = 8
CHAINS_BEFORE = {"split": 0xFF, "packed": 6}
ON_STORE, ON_ACCESS = 1, 3
STEPS = ("take", "disable", "use", "enable")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class CannotTrace(Exception):
    """The host does not let one process trace another, or has no debug registers for it."""


Places = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Step:
    """What a call did: the state of memory before it, and after each access that was watched.

    ``hits`` tells for each access which place it was, counted from 0 in the order given.
    """

    states: list[bytes]
    hits: list[int]

    def values(self, address: int, length: int = 2) -> list[int]:
        """Return the values that a little-endian field took, one after the other."""
        found: list[int] = []
        for state in self.states:
            value = int.from_bytes(state[address : address + length], "little")
            if found[-1:] != [value]:
                found.append(value)
        return found

    def first_with(self, address: int, value: int) -> bytes:
        """Return the state right after the store that gave a 16-bit field this value."""
        wanted = value.to_bytes(2, "little")
        return next(one for one in self.states if one[address : address + 2] == wanted)


def layout_of(form: Form) -> RingLayout:
    """Return where the rings are that :func:`watch` works on."""
    return form.ring(flat_memory(), SIZE, base=RINGS_AT).layout


def watch(form: Form, features: int, loads: Places, stores: Places) -> dict[str, Step]:
    """Return what a queue did in ``pop_many`` for one chain, ``disable_notification``,
    ``add_used_many`` for it and two more, and ``enable_notification``.

    The chains have 4, 5 and 6 bytes; a split queue begins at index 0x00ff, a packed one of 8
    entries at entry 6 of its first lap. Up to four places each, address and length, 2, 4 or 8
    bytes and aligned to it, are watched for ``loads`` in the first call and for ``stores`` in the
    others. Raises :class:`CannotTrace`.
    """
    with SharedMemory() as memory:
        pid = _spawn(memory.fd, form.name, str(form.features | features))
        try:
            _await_mark(pid)
            _watch_places(pid, memory, loads, ON_ACCESS)
            taken = _run_to_mark(pid, memory)
            _watch_places(pid, memory, stores, ON_STORE)
            return {"take": taken} | {name: _run_to_mark(pid, memory) for name in STEPS[1:]}
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def fence_is_locked() -> bool:
    """Whether the fence executes an instruction with a LOCK prefix, a full fence on x86-64."""
    with SharedMemory() as memory:
        pid = _spawn(memory.fd, "fence")
        try:
            _await_mark(pid)
            while not (locked := _next_instruction(pid) & 0xFF == LOCK_PREFIX):
                if _resume(pid, PTRACE_SINGLESTEP) == signal.SIGSTOP:
                    break
            return locked
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _spawn(fd: int, *arguments: str) -> int:
    os.set_inheritable(fd, True)
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "tests.spec.stepping", str(fd), *arguments],
        os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def _await_mark(pid: int) -> None:
    _, status = os.waitpid(pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        raise CannotTrace(f"the traced process ended with status {status:#x}")


def _watch_places(pid: int, memory: SharedMemory, places: Places, kind: int) -> None:
    mapped_at = int.from_bytes(memory.view(MAPPED_AT, 8), "little")
    control = 0
    _poke_user(pid, DR7_OFFSET, 0)
    for number, (address, length) in enumerate(places):
        _poke_user(pid, DEBUG_REGISTERS_OFFSET + 8 * number, mapped_at + address)
        size = {2: 1, 4: 3, 8: 2}[length]
        control |= 1 << 2 * number | (kind | size << 2) << 16 + 4 * number
    _poke_user(pid, DR7_OFFSET, control)


def _poke_user(pid: int, offset: int, value: int) -> None:
    if _libc.ptrace(PTRACE_POKEUSER, pid, offset, value):
        raise CannotTrace(os.strerror(ctypes.get_errno()))


def _run_to_mark(pid: int, memory: SharedMemory) -> Step:
    watched = memory.view(0, WATCHED_BYTES)
    step = Step([bytes(watched)], [])
    while _resume(pid, PTRACE_CONT) != signal.SIGSTOP:
        step.states.append(bytes(watched))
        hit = int(_libc.ptrace(PTRACE_PEEKUSER, pid, DR6_OFFSET, None)) & 0xF
        step.hits.append(hit.bit_length() - 1)
        _poke_user(pid, DR6_OFFSET, 0)
    return step


def _resume(pid: int, how: int) -> int:
    """Let the process go on, and return the signal that stopped it."""
    _libc.ptrace(how, pid, None, None)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSTOPPED(status), f"the traced process ended with status {status:#x}"
    return os.WSTOPSIG(status)


def _next_instruction(pid: int) -> int:
    """Return the 8 bytes at the instruction pointer."""
    instruction_pointer = _libc.ptrace(PTRACE_PEEKUSER, pid, RIP_OFFSET, None)
    return int(_libc.ptrace(PTRACE_PEEKTEXT, pid, instruction_pointer, None))


# The traced process


def main(fd: str, name: str, features: str = "0") -> None:
    """Be the device, and stop before, between and after the calls."""
    memory = SharedMemory(int(fd))
    calls = [_fence_call()] if name == "fence" else _calls(memory, name, int(features))
    if _libc.ptrace(PTRACE_TRACEME, 0, None, None):
        sys.exit(1)
    process, kill, mark = os.getpid(), os.kill, signal.SIGSTOP
    kill(process, mark)
    for call in calls:
        call()
        kill(process, mark)


def _fence_call() -> Callable[[], object]:
    fence = make_fence()

    def call() -> None:
        with fence:
            pass

    return call


def _calls(memory: SharedMemory, name: str, features: int) -> list[Callable[[], object]]:
    form = {"split": SPLIT, "packed": PACKED}[name]
    driver, queue = form.pair(memory, SIZE, features, base=RINGS_AT)
    for _ in range(CHAINS_BEFORE[name]):
        driver.add([], [1])
        queue.add_used_many([(chain, 1) for chain in queue])
        driver.collect()
    queue.enable_notification()
    for size in (4, 5, 6):
        driver.add([], [size])
    chains: list[DescriptorChain] = []
    mapping = (ctypes.c_char * 1).from_buffer(memory.view(0, 1))
    memory.view(MAPPED_AT, 8)[:] = ctypes.addressof(mapping).to_bytes(8, "little")

    def take() -> None:
        chains.extend(queue.pop_many(1))

    def use() -> None:
        chains.extend(queue.pop_many(2))
        queue.add_used_many([(chain, chain.write(b"answer")) for chain in chains])

    return [take, queue.disable_notification, use, queue.enable_notification]


if __name__ == "__main__":
    main(*sys.argv[1:])
