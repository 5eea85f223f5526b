"""The moment by which somebody wants to have waited."""

import threading
import time


def deadline_in(seconds: float) -> float:
    """Return the time, on the monotonic clock, so many seconds from now; ``inf`` is long enough.

    No lock can be waited for longer than ``threading.TIMEOUT_MAX``, some 290 years.
    """
    return time.monotonic() + min(seconds, threading.TIMEOUT_MAX / 2)
