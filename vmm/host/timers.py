"""Calls that are due at a time: those of an event loop, on the clock that never goes back."""

import threading
import time
from bisect import insort
from collections.abc import Callable
from contextlib import suppress

Callback = Callable[[], object]


class Timer:
    """A call that is due later; ``cancel`` may be called at any time and from any thread."""

    __slots__ = ("_timers", "callback", "when")

    def __init__(self, timers: "Timers", when: float, callback: Callback) -> None:
        self._timers = timers
        self.when = when
        self.callback = callback

    def __lt__(self, other: "Timer") -> bool:
        return self.when < other.when

    def cancel(self) -> None:
        """Forget the call; on another thread than the loop's it may just be running."""
        self._timers.forget(self)


class Timers:
    """The timers of one loop; every method is thread-safe.

    ``waiting`` holds them by time. It is short enough that a cancelled timer is taken out at once,
    so that a guest that makes a device set timers over and over cannot make it grow.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.waiting: list[Timer] = []

    def add(self, seconds: float, callback: Callback) -> tuple[Timer, bool]:
        """Return a timer that is due after ``seconds``, and whether it is the first one now."""
        timer = Timer(self, time.monotonic() + seconds, callback)
        with self._lock:
            insort(self.waiting, timer)
            return timer, self.waiting[0] is timer

    def forget(self, timer: Timer) -> None:
        """Take a timer out; harmless when it is gone already."""
        with self._lock, suppress(ValueError):
            self.waiting.remove(timer)

    def seconds_left(self) -> float | None:
        """Return how long the first timer has, 0 when it is overdue, None when there is none."""
        with self._lock:
            if not self.waiting:
                return None
            return max(0.0, self.waiting[0].when - time.monotonic())

    def pop_due(self, now: float) -> Timer | None:
        """Take out one timer that is due: one at a time, as its callback may cancel the next."""
        with self._lock:
            if self.waiting and self.waiting[0].when <= now:
                return self.waiting.pop(0)
            return None
