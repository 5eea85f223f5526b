"""Threads for tests of concurrency: their failures fail the test, and none outlives it."""

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from tests.spec.devices import Medium

PATIENCE_SECONDS = 10.0


class Passes:
    """How often repeated work was ``done``."""

    def __init__(self) -> None:
        self.done = 0

    def await_more(self, count: int) -> None:
        """Return when the work was done ``count`` times more, the one under way included."""
        enough = self.done + count
        wait_until(lambda: self.done >= enough)


class Crew:
    """Runs work on threads of its own; at its end it waits for them and raises what one raised."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.errors: list[BaseException] = []
        self.threads: list[threading.Thread] = []

    def run(self, work: Callable[[], object]) -> threading.Thread:
        """Do the work once, on a thread."""
        thread = threading.Thread(target=self._guarded, args=(work,), daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def repeat(self, work: Callable[[], object]) -> "Passes":
        """Do the work again and again, until the crew stops."""
        passes = Passes()

        def loop() -> None:
            while not self.stopping.is_set():
                work()
                passes.done += 1

        self.run(loop)
        return passes

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self.errors.append(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(PATIENCE_SECONDS)
        if error is None:
            assert not any(thread.is_alive() for thread in self.threads), "a thread is stuck"
            if self.errors:
                raise self.errors[0]


def wait_until(condition: Callable[[], object]) -> None:
    """Look again and again until the condition holds; fails past the deadline."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {condition}"


class StuckMedium(Medium):
    """A disk whose reads do not return before :meth:`let_go`; they fill their buffers then.

    ``entered`` is set while a read is under way, ``timed_out`` when nobody let it go.
    """

    def __init__(self) -> None:
        super().__init__()
        self.data[:] = b"\x77" * len(self.data)
        self.entered = threading.Event()
        self.timed_out = False
        self._gate = threading.Event()

    def let_go(self) -> None:
        """Let reads return."""
        self._gate.set()

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        self.entered.set()
        self.timed_out = not self._gate.wait(PATIENCE_SECONDS)
        super().readv(views, offset)
