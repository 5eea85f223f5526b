"""Handlers of signals, for as long as a block runs."""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def heeding(
    numbers: Iterable[signal.Signals], handler: Callable[[int, Any], object]
) -> Iterator[None]:
    """Have ``handler`` called for these signals inside the block.

    A signal that nohup(1) or a shell without job control made us ignore stays ignored.
    """
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
