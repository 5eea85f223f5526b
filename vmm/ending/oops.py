"""What a kernel printed of the error that it ended with: registers, code and trace.

An error is printed in one piece, from a line that names it to a line that ends it (Linux
arch/x86/kernel/dumpstack.c ``__die``, kernel/panic.c). It is longer than the last lines that a
report shows otherwise.
"""

import re
from typing import Final

from vmm.console.text import printable

LONGEST_LINES: Final = 80

_PANIC: Final = rb"Kernel panic - not syncing"
_BEGIN: Final = (
    rb"(?:BUG: |kernel BUG at |general protection fault|stack segment|divide error|invalid opcode"
    rb"|double fault|traps: |int3: |------------\[ cut here \]|Kernel panic - not syncing)"
)
_PREFIX: Final = rb"^(?:<\d+>)?(?:\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? )?"
_END: Final = rb"---\[ end Kernel panic"


def printed_panic(history: bytes) -> list[str]:
    """Return the lines of the last panic in a console's output, with the error that led to it.

    Escaped and cut, to be shown to a person; empty when there is no panic.

    >>> printed_panic(b"[ 1.2] BUG: bad\\n[ 1.3] RIP: 0010:f+0x1\\n[ 1.4] "
    ...               b"Kernel panic - not syncing: Fatal\\n[ 1.5] ---[ end Kernel panic\\n$ ")
    ['[ 1.2] BUG: bad', '[ 1.3] RIP: 0010:f+0x1', '[ 1.4] Kernel panic - not syncing: Fatal']
    """
    lines = history.splitlines()
    panics = [at for at, line in enumerate(lines) if re.search(_PREFIX + _PANIC, line)]
    if not panics:
        return []
    panic = panics[-1]
    begin = panic
    for at in range(panic, max(-1, panic - LONGEST_LINES // 2), -1):
        if re.search(_END, lines[at]):  # that of another one
            break
        if re.search(_PREFIX + _BEGIN, lines[at]):
            begin = at
    shown = []
    for line in lines[begin : begin + LONGEST_LINES]:
        if re.search(_END, line):
            break
        shown.append(printable(line.decode(errors="replace")))
    return shown
