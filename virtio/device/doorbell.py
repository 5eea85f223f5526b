"""How a host thread gets the attention of a live device: it rings, and the device comes."""

import threading
from collections.abc import Callable

from virtio.device.lifecycle import EventLoop


class Doorbell:
    """Calls ``answer`` with the numbers that were rung, on the loop of the device's activation.

    :meth:`ring` may be called from any thread, in any state of the device. Rings that come before
    the device does are answered together, those of a device that is not live are forgotten: whoever
    rings changed something before, and a device looks at everything when it goes live.
    """

    def __init__(self, answer: Callable[[set[int]], object]) -> None:
        self._answer = answer
        self._lock = threading.Lock()
        self._loop: EventLoop | None = None
        self._rung: set[int] = set()

    def connect(self, loop: EventLoop | None) -> None:
        """Ring on this loop from now on; on none while the device is not live."""
        with self._lock:
            self._loop = loop
            self._rung = set()

    def ring(self, number: int) -> None:
        """Have the device look at one of its parts, soon."""
        with self._lock:
            loop = self._loop
            if loop is None:
                return
            expected = bool(self._rung)
            self._rung.add(number)
        if not expected:
            loop.call_soon_threadsafe(self._open)

    def _open(self) -> None:
        with self._lock:
            rung, self._rung = self._rung, set()
        self._answer(rung)
