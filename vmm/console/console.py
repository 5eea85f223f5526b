"""The guest's console: its output is logged and passed on, its input waits until there is room.

The receiver of a 16550A holds 16 bytes and that of a virtio console some more, and a guest reads
them when it likes. So input waits here, and is fed to the receiver as the guest makes room.
"""

import threading
from collections.abc import Callable
from typing import Final

from vmm.console.log import ConsoleLog

_PIECE_BYTES: Final = 256


Receiver = Callable[[bytes], int]
"""Takes input for the guest, and returns how many bytes it took."""


class GuestConsole(ConsoleLog):
    """A :class:`ConsoleLog` that also takes input, from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self._input = bytearray()
        self._feeding = threading.Lock()
        self._receiver: Receiver | None = None
        self.on_space: Callable[[], object] | None = None
        """Called, on any thread, when :meth:`receive` has room again."""

    def connect(self, receiver: Receiver) -> None:
        """Send input to ``receiver``, whose owner calls :meth:`feed` when it has room again."""
        self._receiver = receiver

    def send(self, data: bytes | str) -> None:
        """Type ``data`` at the guest; text goes as UTF-8."""
        with self._feeding:
            self._input += data.encode() if isinstance(data, str) else data
        self.feed()

    def receive(self, data: bytes) -> int:
        """Offer input and return how many bytes the guest took; the caller keeps the rest."""
        with self._feeding:
            return 0 if self._input or self._receiver is None else self._receiver(data)

    def feed(self) -> None:
        """Hand on as much of the input kept here as the guest takes now."""
        with self._feeding:
            while self._receiver is not None and self._input:
                taken = self._receiver(bytes(self._input[:_PIECE_BYTES]))
                if not taken:
                    return
                del self._input[:taken]
        if self.on_space is not None:
            self.on_space()
