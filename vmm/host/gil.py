"""How soon a thread that computes lets a vCPU have the interpreter.

CPython lets a thread run for 5 ms before another one may interrupt it (``sys.setswitchinterval``).
A vCPU whose exit needs Python would stand still for so long whenever some other thread computes:
in a test that works on results while its guest runs, say. So the interval is short as long as there
is a machine in the process. It is not the shortest: two threads that both compute, and both have
exact timers, would do little but hand the interpreter to each other. They lost half of their speed
with 1 or 2 us, a tenth with 10 us. A longer one costs twice where the host is itself a virtual
machine, whose processors fall asleep meanwhile: an exit beside a thread that runs bytecode took 3.1
times what it takes alone with 10 us, and 4.9 times with 20 us (medians of five runs in turn).
The thread that waits measures it by a timer of the kernel, which may be late by 50 us, prctl(2)
"PR_SET_TIMERSLACK": threads of a machine ask for exact ones.
``python -m tests.perf.exits`` measures what comes of it.
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


def have_exact_timers() -> None:
    """Let the calling thread wait no longer than it asks for; harmless where that cannot be."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _SHORTEST_SLACK_NS, 0, 0, 0)


@contextmanager
def prompt_switching() -> Iterator[None]:
    """Keep the interval short in the block, and put it back when the last such block ends."""
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
