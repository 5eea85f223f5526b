"""How soon a thread that computes lets a vCPU have the interpreter.

CPython lets a thread run for 5 ms before another one may interrupt it (``sys.setswitchinterval``).
A vCPU whose exit needs Python would stand still for so long whenever some other thread computes:
in a test that works on results while its guest runs, say. So the interval is shorter as long as
there is a machine in the process; ``python -m tests.perf.exits`` measures what that does.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SWITCH_SECONDS: Final = 100e-6

_lock = threading.Lock()
_machines = 0
_usual = 0.0


@contextmanager
def prompt_switching() -> Iterator[None]:
    """Keep the interval short in the block, and put it back when the last such block ends."""
    global _machines, _usual
    with _lock:
        _machines += 1
        if _machines == 1:
            _usual = sys.getswitchinterval()
            sys.setswitchinterval(min(_usual, SWITCH_SECONDS))
    try:
        yield
    finally:
        with _lock:
            _machines -= 1
            if _machines == 0:
                sys.setswitchinterval(_usual)
