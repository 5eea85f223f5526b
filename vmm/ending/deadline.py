"""A deadline for a block of code that waits for a guest, and so cannot look at the clock."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def deadline(seconds: float, on_passed: Callable[[], object]) -> Iterator[None]:
    """Call ``on_passed``, on another thread, if the block takes longer than ``seconds``."""
    timer = threading.Timer(seconds, on_passed)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
