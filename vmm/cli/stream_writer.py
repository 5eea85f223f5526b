"""A command's output on its way to one of our streams: all of it, at the reader's own pace."""

import errno
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from vmm.host.files import write_all
from vmm.host.threads import start_thread

LAST_SECONDS: Final = 2.0
"""How long a reader has for what is left when the machine ended without its command's end."""

_GONE: Final = (errno.EPIPE, errno.ECONNRESET)


class StreamWriter:
    """Writes to a descriptor of the host on a thread of its own, and drops nothing.

    A write may block for as long as the reader likes, also on a descriptor that poll(2) calls
    writable, so one thread may block and nobody else waits for it. :meth:`put` only takes; what
    waits is bounded by the credit that the guest gets for what ``on_written(count)`` tells.

    When nobody reads any more (EPIPE) or the host cannot write (``error`` then says why),
    ``on_gone()`` is called once, and the rest counts as written: whoever writes learns it there.
    Both callbacks run on the thread.
    """

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self.error: OSError | None = None
        self.on_written: Callable[[int], object] = lambda count: None
        self.on_gone: Callable[[], object] = lambda: None
        self._fd = fd
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._gone = False
        # A daemon: a reader that never comes back must not keep the process from ending.
        start_thread(threading.Thread(target=self._run, name=f"output {name}", daemon=True))

    def put(self, data: bytes) -> None:
        """Take output; never blocks."""
        with self._changed:
            self._waiting.append(data)
            self._changed.notify_all()

    def drain(self, timeout: float) -> bool:
        """Wait until all is written, or cannot be; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data = self._waiting[0]
            self._write(data)
            self.on_written(len(data))
            with self._changed:
                self._waiting.popleft()
                self._changed.notify_all()

    def _write(self, data: bytes) -> None:
        if self._gone:
            return
        try:
            write_all(self._fd, data)
        except OSError as error:
            self._gone = True
            self.error = None if error.errno in _GONE else error
            self.on_gone()
