"""An event loop for tests: it runs only when told to, on a clock that moves only when told to."""

import select
from collections import deque
from collections.abc import Callable

_Callback = Callable[[], object]


class ManualTimer:
    """A call that is due at ``when`` on the clock of a :class:`ManualLoop`."""

    def __init__(self, when: float, callback: _Callback) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Forget the call."""
        self.cancelled = True


class ManualLoop:
    """An :class:`~virtio.device.lifecycle.EventLoop` that does nothing until it is told to.

    ``readers`` and ``writers`` hold the callbacks by file descriptor; ``now`` is the time in
    seconds, which only :meth:`advance` moves.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.readers: dict[int, _Callback] = {}
        self.writers: dict[int, _Callback] = {}
        self.timers: list[ManualTimer] = []
        self.soon: deque[_Callback] = deque()

    def add_reader(self, fd: int, callback: _Callback) -> None:
        """Call ``callback`` in every :meth:`run_once` that finds ``fd`` readable."""
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        """Stop that."""
        self.readers.pop(fd, None)

    def add_writer(self, fd: int, callback: _Callback) -> None:
        """Call ``callback`` in every :meth:`run_once` that finds ``fd`` writable."""
        self.writers[fd] = callback

    def remove_writer(self, fd: int) -> None:
        """Stop that."""
        self.writers.pop(fd, None)

    def call_later(self, seconds: float, callback: _Callback) -> ManualTimer:
        """Call ``callback`` when :meth:`advance` has passed that time."""
        timer = ManualTimer(self.now + seconds, callback)
        self.timers.append(timer)
        return timer

    def call_soon_threadsafe(self, callback: _Callback) -> None:
        """Call ``callback`` in the next :meth:`run_once` or :meth:`advance`."""
        self.soon.append(callback)

    def run_once(self) -> None:
        """Make the calls that are due now: soon ones, then those of descriptors that are ready."""
        self._run_soon()
        for table, event in ((self.readers, select.POLLIN), (self.writers, select.POLLOUT)):
            for fd, callback in list(table.items()):
                if fd in table and _is_ready(fd, event):
                    callback()

    def advance(self, seconds: float = 0) -> int:
        """Let time pass; make the soon calls and those that are due then; returns how many."""
        self.now += seconds
        made = self._run_soon()
        due = sorted((one for one in self.timers if one.when <= self.now), key=_when)
        self.timers = [timer for timer in self.timers if timer.when > self.now]
        for timer in due:
            if not timer.cancelled:
                timer.callback()
                made += 1
        return made

    def forget(self) -> None:
        """Forget everything, as at a reset."""
        self.readers.clear()
        self.writers.clear()
        self.timers.clear()
        self.soon.clear()

    def _run_soon(self) -> int:
        # Only those there now: a call that asks for itself again is due in the next round.
        count = len(self.soon)
        for _ in range(count):
            self.soon.popleft()()
        return count


def _when(timer: ManualTimer) -> float:
    return timer.when


def _is_ready(fd: int, event: int) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(0))
