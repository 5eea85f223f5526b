"""The reports by which a Linux kernel complains, found in the lines that it printed.

A report begins with a line of a known form and is printed in one piece (Linux kernel/panic.c
``__warn``, arch/x86/kernel/dumpstack.c ``__die``, mm/kasan/report.c, lib/ubsan.c,
kernel/locking/lockdep.c, kernel/rcu/tree_stall.h, kernel/watchdog.c, kernel/hung_task.c). The lines
must be the kernel's own: who can write to the console can write such a line.
"""

import re
from collections.abc import Sequence
from typing import Final

from virtio.named_tuple import NamedTuple
from vmm.console.text import printable

LONGEST_REPORT: Final = 100
"""Lines of one report; what a longer one has beyond that is left out."""

MOST_REPORTS: Final = 50

_TIME: Final = r"(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? "
_TITLES: Final = (
    r"WARNING: ",
    r"\[ BUG: ",
    r"(?:watchdog: )?BUG: ",
    r"BUG [\w.:-]+ \(",  # of a slab: its name, and the taint (mm/slub.c)
    r"kernel BUG at ",
    r"Oops: ",
    r"Oops - ",
    r"general protection fault",
    r"(?:invalid opcode|divide error|stack segment|int3|bounds|double fault): \d{4} \[#",
    r"PANIC: double fault",
    r"UBSAN: ",
    r"CFI failure at ",
    r"(?:rcu: )?INFO: rcu_\w+ .*\bstall",
    r"(?:rcu: )?INFO: .*suspicious RCU usage",
    r"(?:rcu: )?rcu_\w+ kthread (?:starved|timer wakeup)",
    r"(?:NMI )?watchdog: Watchdog detected hard LOCKUP",
    r"INFO: task .* blocked (?:for more than|in I/O wait)",
    r"INFO: (?:possible |inconsistent |HARDIRQ-|SOFTIRQ-|trying to register non-static key)",
    r"refcount_t: ",
    r"list_(?:add|del) corruption",
    r"kmemleak: \d+ new suspected memory leak",
    r"unregister_netdevice: waiting for ",
    r"irq \d+: nobody cared",
    r"sysfs: cannot create duplicate filename",
    r"kobject: .* tried to (?:init|add)",
    r"unreferenced object 0x",
)
# A program chooses the 15 characters of its name, and these messages begin with that.
_OF_A_PROGRAM: Final = (
    r".{1,15}(?:\[\d+\]:? (?:segfault at|bad frame|general protection|trap )"
    r"| ?\(\d+\): |: (?:page allocation|vmalloc|\d+ output lines)| invoked oom-killer"
    r"|\[\d+\] (?:bad|trap))"
)
_CUT_HERE: Final = r"-+\[ cut here \]-+"
_END_TRACE: Final = r"---\[ end trace"
_PANIC: Final = r"Kernel panic - not syncing"
_RULE: Final = r"={20,}$"
_TRACE: Final = (
    r" *(?:</?[\w#]+>|(?:\? )?(?:\[<[\da-fx]+>\] )?(?:\? )?[\w.]+\+0x[\da-f]+/0x[\da-f]+.*"
    r"|RIP: .*|Code: .*|(?:R|E)[A-Z\d]{2}: .*|(?:CR2|CR0|CS|FS|PKRU): .*|entry_\w+.*|0x[\da-f]+)$"
)
_LOOK_AHEAD: Final = 30


class Complaint(NamedTuple):
    """A report: the line that names it, and all of its lines, safe to show.

    ``fatal`` says that the kernel panicked by it.
    """

    title: str
    lines: list[str]
    fatal: bool = False

    @property
    def text(self) -> str:
        """All lines as one text."""
        return "\n".join(self.lines)


def find_complaints(lines: Sequence[str], *, timed: bool = False) -> list[Complaint]:
    """Return the reports in what a kernel printed, in order; MOST_REPORTS at most.

    A line may have its time before it; with ``timed`` those without are not the kernel's.

    >>> [one.title for one in find_complaints(["[ 1.0] usb: fine", "[ 1.2] BUG: bad at f+0x1"])]
    ['BUG: bad at f+0x1']
    """
    return _Finder(lines, timed=timed).find()


class _Finder:
    """Goes through the lines once; ``_texts`` has them without their times."""

    def __init__(self, lines: Sequence[str], *, timed: bool) -> None:
        matches = [re.match(_TIME, line) for line in lines]
        kept = [at for at, match in enumerate(matches) if match or not timed]
        self._lines = [lines[at] for at in kept]
        self._texts = [lines[at][match.end() if (match := matches[at]) else 0 :] for at in kept]
        self._title = re.compile("|".join(_TITLES))
        self._program = re.compile(_OF_A_PROGRAM)

    def find(self) -> list[Complaint]:
        found: list[Complaint] = []
        at = 0
        while at < len(self._texts) and len(found) < MOST_REPORTS:
            if not self._is_title(at):
                at += 1
                continue
            begin, end = self._begin(at), self._end(at)
            panic = self._panic(at, end)
            shown = [printable(line) for line in self._lines[begin : panic or end]]
            title = printable(self._texts[self._named(at, end)])
            found.append(Complaint(title, shown, fatal=panic > 0))
            at = panic or end
        return found

    def _is_title(self, at: int) -> bool:
        text = self._texts[at]
        return self._title.match(text) is not None and self._program.match(text) is None

    def _begin(self, title: int) -> int:
        """Return where the report of a title begins: at the rule or the mark above it."""
        for at in range(title - 1, max(-1, title - 6), -1):
            text = self._texts[at]
            if re.match(_CUT_HERE, text):
                return at
            if re.match(_END_TRACE, text) or self._is_title(at):
                break
            if at == title - 1 and re.match(_RULE, text):
                return at
        return title

    def _named(self, title: int, end: int) -> int:
        """Return the line that says most: WARN() prints its message above the place."""
        for at in range(title, min(title + 4, end)):
            if self._texts[at].startswith(("WARNING: ", "kernel BUG at ")):
                return at
        return title

    def _end(self, title: int) -> int:
        """Return the line behind the report: its last mark, its rule, or the end of its trace."""
        boxed = title > 0 and re.match(_RULE, self._texts[title - 1]) is not None
        trace = 0
        for at in range(title + 1, min(len(self._texts), title + LONGEST_REPORT)):
            text = self._texts[at]
            if re.match(_END_TRACE, text):
                return at + 1
            if boxed and at > title + 1 and re.match(_RULE, text):
                return at + 1
            another = re.match(_CUT_HERE, text) or (trace and self._is_title(at))
            late = not trace and at > title + _LOOK_AHEAD
            if another or late or re.match(_PANIC, text):
                break
            if text.startswith("Call Trace:") or (trace and re.match(_TRACE, text)):
                trace = at + 1
        return trace or title + 1

    def _panic(self, title: int, end: int) -> int:
        """Return the line behind the words of the panic that the report led to, 0 without one."""
        for at in range(title + 1, min(len(self._texts), end + _LOOK_AHEAD)):
            if re.match(_PANIC, self._texts[at]):
                return at + 1
            if at >= end and (self._is_title(at) or re.match(_CUT_HERE, self._texts[at])):
                break
        return 0
