"""A deadline for a block of code that waits for a guest, and so cannot look at the clock."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vmm.host.threads import start_thread


@contextmanager
def deadline(seconds: float, on_passed: Callable[[], object]) -> Iterator[None]:
    """Call ``on_passed``, on another thread, if the block takes longer than ``seconds``."""
    timer = threading.Timer(seconds, on_passed)
    timer.daemon = True
    start_thread(timer)
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
