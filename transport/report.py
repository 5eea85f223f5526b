"""The log of a transport about driver and device: a bounded number of lines a second."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from virtio.errors import DriverError
from virtio.log import DEBUG, Logger
from virtio.rate import TokenBucket

LINES_PER_SECOND: Final = 10
LAST_EVENTS: Final = 32

_log = Logger(__name__)


class Reporter:
    """The log of the device ``name``; bounded, so that no guest can fill a disk with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._events: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=LAST_EVENTS)
        self._failures = TokenBucket(LINES_PER_SECOND, LINES_PER_SECOND)
        self._accesses = TokenBucket(LINES_PER_SECOND, LINES_PER_SECOND)
        self._warned: set[str] = set()
        self.on_dropped: Callable[[str], object] | None = None

    def note(self, message: str, *values: object) -> None:
        """Remember a step in the device's life; its text is made only when somebody asks for it."""
        self._events.append((time.monotonic(), message, values))

    @property
    def events(self) -> list[tuple[float, str]]:
        """The last steps in the device's life: ``time.monotonic()`` and what happened."""
        events = tuple(self._events)
        return [(when, f"{self.name}: {message % values}") for when, message, values in events]

    def dropped(self, message: str, *values: object) -> None:
        """Note an access that had no effect, for those who debug a driver."""
        self.note(message, *values)
        if self.on_dropped is not None:
            self.on_dropped(message % values)
        if _log.shows(DEBUG) and self._accesses.take(1):
            _log.debug(f"%s: {message}", self.name, *values)

    def warn_once(self, message: str) -> None:
        """Log a mistake of the driver that makes a device seem dead; once, as it is repeated."""
        self.note(message)
        if self.on_dropped is not None:
            self.on_dropped(message)
        if message not in self._warned:
            self._warned.add(message)
            _log.warning("%s: %s", self.name, message)

    def failed(self, error: Exception, situation: str) -> None:
        """Note why the device needs a reset; with a traceback unless the driver is at fault.

        Clears the variables of the frames that the error came through, because whoever keeps a
        record of the log must not keep the guest's memory alive with it.
        """
        from virtio.frames import clear_frames

        self.note("failed: %s", str(error))
        if self._failures.take(1):
            self._log_failure(error, situation)
        clear_frames(error.__traceback__)

    def _log_failure(self, error: Exception, situation: str) -> None:
        if isinstance(error, DriverError):
            _log.warning("%s: %s; the device needs a reset", self.name, str(error))
        else:
            _log.error(
                "%s: the device failed and needs a reset: %r\n%s",
                self.name,
                error,
                situation,
                traceback_of=error,
            )
