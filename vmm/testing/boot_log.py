"""What the kernel of a snapshot printed while it booted: kept beside it, for all who use it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from virtio.named_tuple import NamedTuple
from vmm.agent import Agent, GuestOSError
from vmm.console.text import printable
from vmm.ending.complaints import Complaint, find_complaints
from vmm.ending.taint import REPORTED, taint_change

_FILE: Final = "kernel.log"
_MOST_BYTES: Final = 4 << 20


class BootLog(NamedTuple):
    """The kernel's own lines, and its taint, None where that is not known."""

    tainted: int | None
    lines: Sequence[str]

    def complaints(self) -> list[Complaint]:
        """Return what the kernel complained of: by reports, or by a taint that comes with one."""
        found = find_complaints(self.lines, timed=True)
        tainted = (self.tainted or 0) & REPORTED
        if tainted and not found:
            line = taint_change(0, tainted)
            found = [Complaint(line, [line])]
        return found

    def save(self, entry: Path) -> None:
        """Write it into the entry of a snapshot."""
        taint = "" if self.tainted is None else str(self.tainted)
        (entry / _FILE).write_text("\n".join([taint, *self.lines]), encoding="utf-8")

    @classmethod
    def load(cls, entry: Path) -> "BootLog":
        """Return the log of an entry; that of one without it, or with a damaged one, is empty."""
        try:
            with open(entry / _FILE, "rb") as file:
                text = file.read(_MOST_BYTES).decode(errors="replace")
        except OSError:
            return cls(None, ())
        taint, *lines = text.split("\n")
        known = taint.isascii() and taint.isdigit() and len(taint) <= 20
        return cls(int(taint) if known else None, lines)

    @classmethod
    def take(cls, agent: Agent, timeout: float) -> "BootLog":
        """Ask a guest that has booted; a kernel without a log has an empty one."""
        try:
            log = agent.kernel_log(timeout)
        except GuestOSError:
            return cls(None, ())
        own = (record for record in log.records if record.facility == 0)
        return cls(log.tainted, [printable(line) for record in own for line in record.lines])
