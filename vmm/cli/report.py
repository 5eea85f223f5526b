"""The report on a guest's end, for the person who ran it."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from vmm.console.text import printable

if TYPE_CHECKING:
    from vmm.ending.ending import Ending
    from vmm.machine import Machine


def report(ending: Ending, counted: Machine | None, heading: str = "") -> None:
    """Print on stderr how the guest ended, below ``heading``, and the statistics of ``counted``."""
    lines = [f"vmm: {heading}"] if heading else []
    lines += [f"vmm: {ending.message}", *(f"vmm:   {line}" for line in ending.report)]
    if counted is not None:
        lines += [f"vmm: {line}" for line in counted.statistics.lines()]
    with suppress(OSError):  # the terminal went away with the guest's output: the status tells
        print("\n".join(map(printable, lines)), file=sys.stderr)
