"""How long a test may use its guests: one clock for the boot, the set-up and the test itself.

The clock runs while a guest does, not while the host builds a kernel. It stands still in a
debugger, where a person looks at the guest and takes as long as that takes.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Final

from vmm.host.threads import start_thread

_DEBUGGERS: Final = {"bdb", "pdb", "ipdb", "pudb", "pydevd", "_pydevd_bundle", "debugpy"}

_running: "set[TimeLimit]" = set()


class TimeLimit:
    """The ``seconds`` of one test; used up, they end what runs then."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._left = seconds
        self._lock = threading.Lock()
        self._calls: list[Callable[[], object]] = []
        self._held = False
        self._timer: threading.Timer | None = None
        self._since = 0.0
        self._thread = threading.get_ident()

    @contextmanager
    def running(self, on_passed: Callable[[], object]) -> Iterator[None]:
        """Let the clock run for the block; ``on_passed`` is called once, on another thread.

        It is called at once when the time is over already.
        """
        with self._lock:
            self._calls.append(on_passed)
            self._thread = threading.get_ident()
            _running.add(self)
            self._start()
        try:
            yield
        finally:
            with self._lock:
                self._calls.remove(on_passed)
                if not self._calls:
                    self._stop()
                    _running.discard(self)

    @property
    def left(self) -> float:
        """How many seconds are left."""
        with self._lock:
            used = 0.0 if self._timer is None else monotonic() - self._since
            return max(0.0, self._left - used)

    def hold(self) -> None:
        """Stop the clock until :meth:`go_on`."""
        with self._lock:
            self._held = True
            self._stop()

    def go_on(self) -> None:
        """Let the clock run again."""
        with self._lock:
            self._held = False
            self._start()

    def _start(self) -> None:
        if self._timer is None and self._calls and not self._held:
            self._since = monotonic()
            self._timer = threading.Timer(max(0.0, self._left), self._passed)
            self._timer.daemon = True
            start_thread(self._timer)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._left -= monotonic() - self._since

    def _passed(self) -> None:
        with self._lock:
            if self._timer is not threading.current_thread():
                return
            self._stop()
            # One that told nobody when it began: its end is not known either, so all begins anew.
            if _is_debugged(self._thread):
                self._left = self.seconds
                self._start()
                return
            calls = list(self._calls)
        for call in calls:
            call()


def hold_all() -> None:
    """Stop the clocks of all tests that run: a debugger begins."""
    for limit in tuple(_running):
        limit.hold()


def go_on_all() -> None:
    """Let them run again."""
    for limit in tuple(_running):
        limit.go_on()


def _is_debugged(thread: int) -> bool:
    """Whether a debugger is at work on a thread, or has started it."""
    frame: FrameType | None = sys._current_frames().get(thread)
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in _DEBUGGERS:
            return True
        frame = frame.f_back
    return False
