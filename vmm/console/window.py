"""The size of the user's terminal, and its changes: Linux ioctl_tty(2), SIGWINCH."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final, Self

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


class WindowWatch:
    """Calls ``on_change`` on the loop's thread at each SIGWINCH, and when somebody rings.

    Use it in a ``with`` block on the main thread, where Python delivers signals. A handler may
    interrupt that thread with any lock held, so :meth:`ring` takes none: it writes to an eventfd.
    """

    def __init__(self, loop: EventLoop, on_change: Callable[[], object]) -> None:
        self._loop = loop
        self._on_change = on_change

    def __enter__(self) -> Self:
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._loop.add_reader(self._bell, self._look)
            self._before = signal.signal(signal.SIGWINCH, self._signalled)
        except BaseException:
            os.close(self._bell)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGWINCH, self._before)
        self._loop.remove_reader(self._bell)
        os.close(self._bell)

    def ring(self) -> None:
        """Have ``on_change`` called; from anywhere, a signal handler too."""
        with suppress(BlockingIOError):
            os.eventfd_write(self._bell, 1)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.ring()

    def _look(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        self._on_change()
