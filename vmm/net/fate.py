"""What a network does to frames on their way: losses, copies, delays, and all by one seed."""

from random import Random
from typing import Final, TypedDict

from virtio.errors import ConfigurationError

REORDER_SECONDS: Final = 0.01
QUEUE_SECONDS: Final = 0.5
"""How long a frame may wait for those before it, where bandwidth is limited; others are lost."""


class FateOptions(TypedDict, total=False):
    """The options of :class:`Fate`, for those who hand them on."""

    loss: float
    duplicate: float
    reorder: float
    delay: float
    jitter: float
    bandwidth: float | None
    seed: int


class Fate:
    """Decides what becomes of each frame; the same frames in the same order meet the same fate.

    ``loss``, ``duplicate`` and ``reorder`` are probabilities from 0 to 1: of a frame that is lost,
    of one that comes twice, and of one that comes 10 ms later than it would. ``delay`` and
    ``jitter`` are seconds: each frame takes the first, and up to the second more, which lets frames
    overtake each other. ``bandwidth`` is in bits a second, for each receiver.
    """

    def __init__(
        self,
        *,
        loss: float = 0,
        duplicate: float = 0,
        reorder: float = 0,
        delay: float = 0,
        jitter: float = 0,
        bandwidth: float | None = None,
        seed: int = 0,
    ) -> None:
        for name, chance in (("loss", loss), ("duplicate", duplicate), ("reorder", reorder)):
            if not 0 <= chance <= 1:
                raise ConfigurationError(f"switch: {name} {chance:g}: must be 0 to 1")
        for name, seconds in (("delay", delay), ("jitter", jitter)):
            if not 0 <= seconds <= 60:
                raise ConfigurationError(f"switch: {name} {seconds:g}: must be 0 to 60 seconds")
        if bandwidth is not None and not bandwidth >= 1000:
            raise ConfigurationError(f"switch: bandwidth {bandwidth:g}: must be from 1000 on")
        self.loss, self.duplicate, self.reorder = loss, duplicate, reorder
        self.delay, self.jitter = delay, jitter
        self.bandwidth = bandwidth
        self._random = Random(seed)
        self._busy_until: dict[object, float] = {}

    @property
    def is_plain(self) -> bool:
        """Whether nothing happens to frames: all come, at once, in order."""
        happens = (self.loss, self.duplicate, self.reorder, self.delay, self.jitter)
        return not any(happens) and self.bandwidth is None

    @property
    def keeps_time(self) -> bool:
        """Whether frames may take time."""
        return bool(self.reorder or self.delay or self.jitter) or self.bandwidth is not None

    def copies(self) -> int:
        """Return how often a frame comes: 0 to 2 times."""
        chance = self._random.random
        if self.loss and chance() < self.loss:
            return 0
        return 2 if self.duplicate and chance() < self.duplicate else 1

    def arrival(self, receiver: object, size: int, now: float) -> float | None:
        """Return when a frame of ``size`` bytes comes to a receiver; None for one that is lost."""
        when = now
        if self.bandwidth is not None:
            free = max(now, self._busy_until.get(receiver, 0))
            if free - now > QUEUE_SECONDS:
                return None
            when = self._busy_until[receiver] = free + size * 8 / self.bandwidth
        when += self.delay
        if self.jitter:
            when += self._random.random() * self.jitter
        if self.reorder and self._random.random() < self.reorder:
            when += REORDER_SECONDS
        return when
