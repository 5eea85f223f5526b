"""The bytes that wait until the agent's port takes them."""

import threading
import time
from collections.abc import Callable
from typing import Final

_SENT_BYTES: Final = 64 << 10


class Outbox:
    """Gives bytes to ``send``, which returns how many it took, for any number of threads.

    One thread sends, for all others who come meanwhile; ``send`` is called without a lock.
    """

    def __init__(self, send: Callable[[bytes], int]) -> None:
        self._send = send
        self._changed = threading.Condition()
        self._waiting = bytearray()
        self._sending = False
        self._send_again = False

    def add(self, data: bytes) -> None:
        """Have ``data`` sent by the next :meth:`pump`."""
        with self._changed:
            self._waiting += data

    def clear(self) -> None:
        """Drop all that waits."""
        with self._changed:
            self._waiting.clear()

    def wait_idle(self, deadline: float) -> bool:
        """Wait until no thread sends; False when one still does at ``deadline``."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._sending, max(0.0, deadline - time.monotonic())
            )

    def pump(self) -> None:
        """Send as much as is taken."""
        while data := self._next_data():
            taken = 0
            try:
                taken = self._send(data)
            finally:
                going_on = self._sent(taken, taken == len(data))
            if not going_on:
                return

    def _next_data(self) -> bytes:
        with self._changed:
            self._send_again = self._sending
            if self._sending or not self._waiting:
                return b""
            self._sending = True
            return bytes(self._waiting[:_SENT_BYTES])

    def _sent(self, count: int, all_taken: bool) -> bool:
        with self._changed:
            self._sending = False
            del self._waiting[:count]
            self._changed.notify_all()
            return all_taken or self._send_again
