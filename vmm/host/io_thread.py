"""A thread that serves file descriptors and timers: an event loop, and its life."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from virtio.log import Logger
from vmm.host.gil import use_exact_timers
from vmm.host.loop import EventLoop
from vmm.host.resource import Resource
from vmm.host.threads import end_thread, start_thread

PATIENCE_SECONDS: Final = 5.0

_log = Logger(__name__)


class IoThread(Resource):
    """An event loop on a thread of its own, which runs between :meth:`start` and :meth:`stop`.

    ``on_error`` gets the exceptions of callbacks; ``begin`` is called on the thread first. Calls
    of ``loop`` wait until the start.
    """

    def __init__(
        self,
        name: str,
        on_error: Callable[[Exception], None],
        begin: Callable[[], object] | None = None,
    ) -> None:
        self.on_error = on_error
        self.begin = begin
        self.loop = EventLoop(on_error)
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def _main(self) -> None:
        use_exact_timers()
        if self.begin is not None:
            self.begin()
        with suppress(SystemExit):  # of end_thread()
            self.loop.run()

    @property
    def started(self) -> bool:
        """Whether the thread runs, or has run."""
        return self._thread.ident is not None

    def start(self) -> None:
        """Serve from now on."""
        start_thread(self._thread)

    def stop(self) -> None:
        """Stop serving for good; returns when the callback that runs has returned.

        One of Python's that makes no end is ended after PATIENCE_SECONDS; a call of the host's, as
        for a disk that does not answer, is waited for.
        """
        self.loop.stop()
        if not self.started:
            return
        self._thread.join(PATIENCE_SECONDS)
        if self._thread.is_alive():
            _log.warning("%s: its code has not returned, and is ended", self._thread.name)
        while self._thread.is_alive():
            end_thread(self._thread)
            self._thread.join(PATIENCE_SECONDS)

    def close(self) -> None:
        """Stop, and close the loop's own descriptors."""
        self.stop()
        self.loop.close()
