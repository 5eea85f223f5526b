"""Lets a vCPU have the interpreter soon, whatever other threads compute.

The problem. A vCPU whose exit needs Python waits for the interpreter's lock. CPython lets a thread
that runs bytecode keep the lock for 5 ms (``sys.setswitchinterval``) before it makes the thread
yield. So in a process that computes beside its guest, as a test does, each such exit takes 5 ms.

What does not work. The shortest interval: two threads that both compute do little but hand the lock
to each other. They lost half of their speed with 1 or 2 us, and a tenth with 10 us. A longer
interval costs more on a host that is itself a virtual machine, whose processors fall asleep
meanwhile: an exit beside a thread that runs bytecode took 3.1 times as long as alone with 10 us,
and 4.9 times with 20 us (medians of five alternating runs). A short interval alone: the waiting
thread measures it with a timer of the kernel, which may be late by 50 us, prctl(2)
"PR_SET_TIMERSLACK".

What we do. The interval is 10 us as long as the process has a machine, and threads of a machine
ask for exact timers.

What remains. Bytecode notices a request to yield only between instructions: one long call into C
that keeps the lock (``sorted`` of a large list, a regular expression) still holds up a vCPU.
``python -m tests.perf.exits`` measures an exit beside a computing thread.
"""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SWITCH_SECONDS: Final = 10e-6

_PR_SET_TIMERSLACK: Final = 29
_SHORTEST_SLACK_NS: Final = 1

_lock = threading.Lock()
_machines = 0
_usual = 0.0


def use_exact_timers() -> None:
    """Give the calling thread timers without slack; harmless where the kernel refuses."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _SHORTEST_SLACK_NS, 0, 0, 0)


@contextmanager
def short_switch_interval() -> Iterator[None]:
    """Keep the interval short in the block; the end of the last such block puts it back."""
    global _machines, _usual
    with _lock:
        _machines += 1
        if _machines == 1:
            _usual = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        with _lock:
            _machines -= 1
            if _machines == 0:
                sys.setswitchinterval(_usual)
