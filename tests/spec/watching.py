"""Looks at shared memory between any two steps of the device, as another processor could."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def at_every_line(look: Callable[[], object], work: Callable[[], object]) -> None:
    """Do ``work`` on this thread, and call ``look`` before every line of Python that it runs."""

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        look()
        return trace

    outer = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(outer)
