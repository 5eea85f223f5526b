"""What no input may cost: a second of processor time, or memory that stays."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.targets import Target

SECONDS_MAX = 1.0
HANG_SECONDS = 5.0
RUNS_AGAIN = 5
WARM_UP = 4096
GROWTH_MAX_BYTES = 256 << 20


class Finding(Exception):
    """An input that costs too much."""


class Guard:
    """Runs inputs of a target, and raises :class:`Finding` when one costs too much.

    ``seconds`` is what one input may take. Memory may grow by ``growth`` bytes over what it was
    after the first 4096 inputs; ``resident`` tells how much it is now.
    """

    def __init__(
        self,
        target: Target,
        *,
        seconds: float = SECONDS_MAX,
        growth: int = GROWTH_MAX_BYTES,
        resident: Callable[[], int] | None = None,
    ) -> None:
        self.target = target
        self.seconds = seconds
        self.growth = growth
        self.resident = resident or resident_bytes
        self.count = 0
        self._allowed = 0
        self._seen = -1

    def watch_for_hangs(self, seconds: float = HANG_SECONDS) -> None:
        """Break off an input that does not end, after ``seconds`` to twice that.

        It is processor time: on a busy machine any process may stand still for a minute.
        """
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, seconds, seconds)

    def _look(self, number: int, frame: object) -> None:
        if self.count == self._seen:
            signal.setitimer(signal.ITIMER_PROF, 0)
            raise Finding("an input does not end")
        self._seen = self.count

    def __call__(self, data: bytes) -> None:
        """Run one input."""
        start = time.perf_counter()
        self.target(data)
        if time.perf_counter() - start > self.seconds:
            self._time_again(data)
        self.count += 1
        if self.count % WARM_UP == 0:
            self._check_memory()

    def _time_again(self, data: bytes) -> None:
        """Run it again by processor time: the machine may just have been busy.

        The quickest run counts. A virtual processor that its host suspends is charged for that.
        """
        taken = min(self._processor_seconds(data) for _ in range(RUNS_AGAIN))
        if taken > self.seconds:
            raise Finding(f"an input takes {taken:.1f} s, {self.seconds:g} s are allowed")

    def _processor_seconds(self, data: bytes) -> float:
        start = time.process_time()
        self.target(data)
        return time.process_time() - start

    def _check_memory(self) -> None:
        now = self.resident()
        self._allowed = self._allowed or now + self.growth
        if now > self._allowed:
            raise Finding(
                f"after {self.count} inputs {now >> 20} MiB are in use, {self._allowed >> 20} MiB"
                " are allowed: memory is kept from input to input"
            )


def resident_bytes() -> int:
    """Return how much memory this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
