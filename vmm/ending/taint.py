"""The taint of a Linux kernel: ``/proc/sys/kernel/tainted``, a bit for each reason.

Implements Linux Documentation/admin-guide/tainted-kernels.rst.
"""

from typing import Final

_REASONS: Final = (
    ("P", "proprietary module"),
    ("F", "module was force loaded"),
    ("S", "out of specification system"),
    ("R", "module was force unloaded"),
    ("M", "machine check exception"),
    ("B", "bad page"),
    ("U", "requested by a program"),
    ("D", "kernel died: an oops or BUG"),
    ("A", "ACPI table overridden"),
    ("W", "kernel issued a warning"),
    ("C", "staging driver"),
    ("I", "workaround for a bug in firmware"),
    ("O", "out-of-tree module"),
    ("E", "unsigned module"),
    ("L", "soft lockup"),
    ("K", "live patch"),
    ("X", "auxiliary, for distributions"),
    ("T", "struct randomization plugin"),
    ("N", "in-kernel test"),
)

REPORTED: Final = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 9 | 1 << 14
"""The bits that a kernel sets with a report: M, B, D, W and L."""


def taint_change(before: int, now: int) -> str:
    """Return a line that tells how the taint has changed.

    >>> taint_change(4, 4 | 64)
    '/proc/sys/kernel/tainted changed from 4 to 68: U (requested by a program)'
    """
    new = now & ~before
    names = [
        "{} ({})".format(*_REASONS[bit]) if bit < len(_REASONS) else f"bit {bit}"
        for bit in range(new.bit_length())
        if new >> bit & 1
    ]
    reasons = f": {', '.join(names)}" if names else ""
    return f"/proc/sys/kernel/tainted changed from {before} to {now}{reasons}"
