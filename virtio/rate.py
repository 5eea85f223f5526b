"""A token bucket: a rate with bursts, for bytes served and for lines logged."""

import time
from collections.abc import Callable


class TokenBucket:
    """Grants ``per_second`` tokens a second, and saves up at most ``capacity`` of them.

    >>> bucket = TokenBucket(10, capacity=5, clock=lambda: 0.0)
    >>> bucket.take(3), bucket.take(3), bucket.take(3)
    (3, 2, 0)
    """

    def __init__(
        self, per_second: float, capacity: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if per_second <= 0 or capacity <= 0:
            raise ValueError(f"{per_second} tokens a second, {capacity} saved: both must be > 0")
        self.per_second = per_second
        self.capacity = capacity
        self._clock = clock
        self._tokens = float(capacity)
        self._filled = clock()

    def take(self, wanted: int) -> int:
        """Take up to ``wanted`` tokens and return how many there were, possibly none."""
        now = self._clock()
        earned = (now - self._filled) * self.per_second
        self._tokens = min(self.capacity, self._tokens + earned)
        self._filled = now
        granted = min(wanted, int(self._tokens))
        self._tokens -= granted
        return granted

    def give_back(self, tokens: int) -> None:
        """Return tokens that were taken and not used."""
        self._tokens = min(self.capacity, self._tokens + tokens)
