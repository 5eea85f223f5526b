"""The size of the user's terminal, and its changes: Linux ioctl_tty(2), SIGWINCH."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from vmm.host.loop import EventLoop

DEFAULT_SIZE: Final = (80, 24)

_MOST: Final = 0xFFFF


def window_size(fd: int) -> tuple[int, int] | None:
    """Return the columns and rows of a terminal; None for what is none, or has no size."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return None
    return (min(columns, _MOST), min(rows, _MOST)) if columns > 0 and rows > 0 else None


@contextmanager
def window_changes(
    fd: int, loop: EventLoop, on_size: Callable[[int, int], object]
) -> Iterator[None]:
    """Call ``on_size(columns, rows)`` on the loop's thread at each change, inside this block.

    Use it on the main thread, where Python delivers signals. The handler may interrupt that thread
    with any lock held, so it takes none: it rings an eventfd.
    """

    def ring(number: int, frame: Any) -> None:
        with suppress(BlockingIOError):
            os.eventfd_write(bell, 1)

    def look() -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(bell)
        if size := window_size(fd):
            on_size(*size)

    bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        loop.add_reader(bell, look)
        before = signal.signal(signal.SIGWINCH, ring)
        try:
            yield
        finally:
            signal.signal(signal.SIGWINCH, before)
            loop.remove_reader(bell)
    finally:
        os.close(bell)
