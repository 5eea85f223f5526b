"""The guest's memory from outside: how much it is to give up, has given up, and uses."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from virtio.errors import Error, InternalError
from vmm.balloon.size import PAGE_BYTES, check_balloon

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtio.balloon import Balloon, BalloonStatistics
    from virtio.balloon.pages import Range
    from vmm.hardware import Hardware

STATISTICS_SECONDS: Final = 5.0
HINTS_SECONDS: Final = 60.0
SILENT_SECONDS: Final = 5.0
"""How long a snapshot waits for the hints of a guest, in all and for the next one.

A guest takes milliseconds; one whose kernel is emulated, on a busy host, seconds.
"""

_RETURNED_PART: Final = 16
"""Which part of the pages that it hinted at the guest may still hold, or have used."""

_PAUSE_SECONDS: Final = 0.02


class BalloonTimeoutError(Error, TimeoutError):
    """The guest did not do in time what its balloon was asked for."""


class BalloonLostError(Error):
    """The guest ended before it did what its balloon was asked for."""


class MachineBalloon:
    """The balloon of a running machine: its ``device``, for any thread.

    What the guest says of its memory proves nothing: it may lie.
    """

    def __init__(self, device: Balloon, memory_bytes: int) -> None:
        self.device = device
        self._memory_bytes = memory_bytes
        self._changed = threading.Condition()
        self._actual_pages = device.actual
        self._counts = 0
        self._statistics: BalloonStatistics | None = None
        self._hinted = False
        self._ended = ""
        device.on_actual = self._actual_changed
        device.on_statistics = self._statistics_came
        device.on_hinted = self._hints_came

    @property
    def target_bytes(self) -> int:
        """How much memory the guest is asked to give up; assign it to ask.

        A multiple of 4096, at most the machine's memory: :class:`ConfigurationError` otherwise. The
        guest gives what it can spare, when it can; 0 has it take everything back.
        """
        return self.device.num_pages * PAGE_BYTES

    @target_bytes.setter
    def target_bytes(self, size: int) -> None:
        check_balloon(size, self._memory_bytes)
        self.device.num_pages = size // PAGE_BYTES

    @property
    def actual_bytes(self) -> int:
        """How much memory the guest says that it has given up."""
        return self._actual_pages * PAGE_BYTES

    def wait(self, timeout: float) -> None:
        """Wait until the guest says that the balloon is as large as the target.

        Raises :class:`BalloonTimeoutError` after ``timeout`` seconds, and :class:`BalloonLostError`
        when the guest has ended.
        """
        self._wait(timeout, self._is_on_target, "the balloon does not reach its target")

    def statistics(self, timeout: float = STATISTICS_SECONDS) -> BalloonStatistics:
        """Ask the guest what it does with its memory, and wait up to ``timeout`` seconds for it.

        Raises :class:`BalloonTimeoutError` when the guest does not tell, as one without a driver,
        and :class:`BalloonLostError` when it has ended.
        """
        with self._changed:
            before = self._counts
        self.device.poll()
        self._wait(timeout, lambda: self._counts > before, "no statistics came from the guest")
        with self._changed:
            assert self._statistics is not None
            return self._statistics

    def hints(self) -> list[Range]:
        """Have the guest tell which pages are free, and wait until it has these for itself again.

        Returns none when it cannot tell, or not in time.
        """
        before = self._free_bytes()
        found = self._hints() if self._asked() else []
        self.device.end_hints()
        if before is not None and found:
            hinted = sum(length for _, length in found)
            self._wait_for_free(before - hinted // _RETURNED_PART)
        return found if self.device.can_hint else []

    def _hints(self) -> list[Range]:
        return self.device.hints or []

    def _asked(self) -> bool:
        """Ask, and wait as long as the guest goes on telling; returns whether it has told all."""
        with self._changed:
            self._hinted = False
        self.device.ask_for_hints()
        until, before, count = time.monotonic() + HINTS_SECONDS, -1, 0
        while count > before and time.monotonic() < until:
            try:
                self._wait(SILENT_SECONDS, lambda: self._hinted, "no hints")
            except BalloonTimeoutError:
                before, count = count, self.device.hint_count
            except BalloonLostError:
                return False
            else:
                return True
        return False

    def _free_bytes(self) -> int | None:
        """Return how much memory the guest says is free, None if it does not tell."""
        if not self.device.VIRTIO_BALLOON_F_STATS_VQ:
            return None
        try:
            return self.statistics(SILENT_SECONDS).free_bytes
        except (BalloonTimeoutError, BalloonLostError):
            return None

    def _wait_for_free(self, wanted: int) -> None:
        """Wait until the guest has so many bytes free, as long as it frees more and more."""
        until, before = time.monotonic() + HINTS_SECONDS, -1
        quiet_until = time.monotonic() + SILENT_SECONDS
        while time.monotonic() < min(until, quiet_until):
            free = self._free_bytes()
            if free is None or free >= wanted or self._ended:
                return
            if free > before:
                before, quiet_until = free, time.monotonic() + SILENT_SECONDS
            with self._changed:
                self._changed.wait(_PAUSE_SECONDS)

    def end(self, message: str) -> None:
        """Let everybody know who waits for the guest, which is gone for good."""
        with self._changed:
            self._ended = message
            self._changed.notify_all()

    def _wait(self, timeout: float, done: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + timeout
        with self._changed:
            while not done():
                if self._ended:
                    raise BalloonLostError(f"{what}: {self._ended}")
                left = until - time.monotonic()
                if left <= 0:
                    raise BalloonTimeoutError(f"{what} within {timeout:g} s")
                self._changed.wait(left)

    def _is_on_target(self) -> bool:
        return self._actual_pages == self.device.num_pages

    def _actual_changed(self, pages: int) -> None:
        with self._changed:
            self._actual_pages = pages
            self._changed.notify_all()

    def _statistics_came(self, statistics: BalloonStatistics) -> None:
        with self._changed:
            self._statistics = statistics
            self._counts += 1
            self._changed.notify_all()

    def _hints_came(self) -> None:
        with self._changed:
            self._hinted = True
            self._changed.notify_all()


def machine_balloon(hardware: Hardware) -> MachineBalloon:
    """Return what looks after the balloon of a machine, whose configuration asks for one."""
    from virtio.balloon import Balloon

    for transport in hardware.transports:
        if isinstance(transport.device, Balloon):
            return MachineBalloon(transport.device, hardware.ram.size_bytes)
    raise InternalError("the machine has no balloon, which its configuration asks for")
