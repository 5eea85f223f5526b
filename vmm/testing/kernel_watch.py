"""What a guest's kernel prints during a test, and what it complains of.

Its own log is asked for, where nobody else can write as the kernel. When the guest has gone before,
there is its console: of that only lines count that begin with a time, as the kernel's do.
"""

from collections.abc import Sequence
from typing import Final

from vmm.agent import AgentLostError, GuestOSError
from vmm.agent.kernel_log import KernelLog
from vmm.console.text import printable
from vmm.ending.complaints import Complaint, find_complaints
from vmm.ending.taint import REPORTED, taint_change
from vmm.machine import Machine
from vmm.testing.boot import await_end

ANSWER_SECONDS: Final = 60.0
MOST_LINES: Final = 4000
_LOST: Final = "some messages were lost here, as the kernel's log was full"


class KernelWatch:
    """Watches one guest's kernel; ``tainted`` is its taint when it begins, if that is known."""

    def __init__(self, machine: Machine, tainted: int | None) -> None:
        self._machine = machine
        self._tainted = tainted
        self._next = 0  # the number of the next message, when one has been seen
        self._position = 0
        self._keeps_log = True
        self._start_over()

    def begin(self) -> None:
        """Begin a test: what was printed and seen so far is another one's."""
        self._start_over()
        self._position = self._machine.console.position

    def look(self, timeout: float = ANSWER_SECONDS) -> None:
        """Ask for what is new; raises an ``Error`` when the guest runs and does not answer."""
        paused = all(thread.paused for thread in self._machine.threads)
        if self._machine.ending is None and self._keeps_log and not paused:
            try:
                self._take(self._machine.agent.kernel_log(timeout))
                return
            except GuestOSError:
                self._keeps_log = False
            except AgentLostError:
                await_end(self._machine)
                if self._machine.ending is None:
                    raise
        self._take_console()

    @property
    def lines(self) -> list[str]:
        """The last lines of this test, safe to show, with what programs wrote into the log."""
        return [printable(line) for line in self._shown]

    def complaints(self) -> list[Complaint]:
        """Return the complaints of this test, but for those that were taken."""
        reports, taints = self._found()
        return reports[self._taken_reports :] + taints[self._taken_taints :]

    def take(self) -> list[Complaint]:
        """Return the complaints, which from then on fail no test."""
        taken = self.complaints()
        reports, taints = self._found()
        self._taken_reports, self._taken_taints = len(reports), len(taints)
        return taken

    def _start_over(self) -> None:
        self._lines: list[str] = []  # the kernel's alone, in which complaints are looked for
        self._shown: list[str] = []
        self._taints: list[tuple[int, int]] = []
        self._taken_reports = self._taken_taints = 0

    def _found(self) -> tuple[list[Complaint], list[Complaint]]:
        reports = find_complaints(self._lines, timed=True)
        if self._machine.ending is not None:  # which tells of what has led to a panic
            reports = [one for one in reports if not one.fatal]
        return reports, taint_complaints(self._taints, reported=bool(reports))

    def _take(self, log: KernelLog) -> None:
        for record in log.records:
            if self._next and record.number > self._next:
                self._shown.append(_LOST)
            self._next = record.number + 1
            self._shown += record.lines
            if record.facility == 0:
                self._lines += record.lines
        del self._shown[:-MOST_LINES]
        if log.tainted is None:
            return
        before, self._tainted = self._tainted, log.tainted
        if before is not None and before != log.tainted:
            self._taints.append((before, log.tainted))

    def _take_console(self) -> None:
        console = self._machine.console  # of a guest that has ended, or is not to be asked
        position, self._position = self._position, console.position
        text = console.since(position).decode(errors="replace")
        seen = set(self._lines)
        new = [line for line in text.splitlines() if line not in seen]
        self._shown += new
        self._lines += new


def taint_complaints(changes: Sequence[tuple[int, int]], *, reported: bool) -> list[Complaint]:
    """Return a complaint for each change of the taint, but for what reports have told of."""
    told = REPORTED if reported else 0
    lines = [taint_change(old, new) for old, new in changes if new & ~old & ~told or old & ~new]
    return [Complaint(line, [line]) for line in lines]
