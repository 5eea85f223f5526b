"""One attempt at a test: the guests that it uses, and whether it has failed.

A plugin that runs a failed test again makes another attempt, which has nothing of the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmm.testing.config import GuestConfig
    from vmm.testing.guest import Guest

_SECONDS_AFTER_FAILURE = 10.0


class Attempt:
    """What is known of an attempt; ``failed`` says that one of its phases has failed.

    ``has_guest`` says that it asked for a guest; ``resources`` are closed at its end, after those
    of its fixtures.
    """

    def __init__(self) -> None:
        self.failed = False
        self.has_guest = False
        self.resources = ExitStack()
        self._watched: list[tuple[Guest, GuestConfig]] = []
        self._checked = False
        self._reports: list[Callable[[], str]] = []

    def begin_with(self, guest: Guest) -> None:
        """Give a guest that is there already the time of this test."""
        from vmm.testing.time_limit import TimeLimit

        self.has_guest = True
        guest.begin_test(TimeLimit(guest.config.deadline))
        self.add_report(guest.report)

    def check(self, guest: Guest) -> None:
        """Raise for a guest that has ended unasked, unless the test has failed anyway."""
        if not self.failed:
            guest.check()

    def watch(self, guest: Guest, config: GuestConfig) -> None:
        """Have :meth:`check_complaints` look at a guest's kernel too."""
        self._watched.append((guest, config))

    def check_complaints(self) -> None:
        """Raise for what the kernels complained of and their configurations do not allow."""
        for guest, config in self._watched:
            guest.check_complaints(config)
        self._checked = True

    def kernel_lines(self) -> list[str]:
        """Return what the kernels printed in this attempt; of one that failed also the last."""
        seconds = None if self._checked else _SECONDS_AFTER_FAILURE
        return [line for guest, _ in self._watched for line in guest.kernel_lines(seconds)]

    def add_report(self, report: Callable[[], str]) -> None:
        """Have the report of a failure show what ``report`` returns."""
        self._reports.append(report)

    def add_text(self, text: str) -> None:
        """Have the report show this text."""
        self._reports.append(lambda: text)

    def reports(self) -> list[str]:
        """Return the state of each guest, for a person who looks for what went wrong."""
        return [report() for report in self._reports]
