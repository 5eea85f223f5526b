"""One port of a console device, the host's end of it. VIRTIO 1.4 "Multiport Device Operation"."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from virtio.errors import ConfigurationError, InternalError

NAME_BYTES_MAX: Final = 255
PAGE_BYTES: Final = 4096

Callback = Callable[..., object]


class ConsolePort:
    """Carries bytes both ways; every method may be called from any thread, and none blocks.

    ``name`` is what the guest shows in ``/sys/class/virtio-ports/*/name``, at most 255 bytes of
    UTF-8; a ``console`` becomes a terminal (``hvc0``). Raises :class:`ConfigurationError` for what
    cannot be.

    To the guest: :meth:`send` takes what fits into a buffer of ``buffer_bytes``. It waits there
    until the guest opens its end, however often that closes and opens (``CON-13``): a test may send
    before the guest has booted, as to a serial line. What the guest has not taken is dropped when
    the host closes its end, when a live device is reset, and when the port is removed: whoever it
    was for is gone then. ``on_space()`` is called when :meth:`send`, having taken less than it was
    given, takes more again.

    From the guest: ``on_data(data)`` gets its output, and returns how many bytes it took, ``None``
    for all. After fewer, the rest stays in the guest, which waits without blocking a vCPU, until
    :meth:`resume` (``CON-11``). Without ``on_data``, or with the host's end closed, output is
    dropped. ``on_guest_open(is_open)`` is called when the guest opens or closes its end.

    Callbacks run on the thread that serves the device, or on the caller's; they may call everything
    here, and must not block. One that is running ends after :meth:`close` has returned.
    """

    def __init__(self, name: str = "", *, console: bool = False, buffer_bytes: int = 65536) -> None:
        if buffer_bytes < 1:
            raise ConfigurationError(f"console port buffer of {buffer_bytes} bytes: 1 is needed")
        self.name = _name(name)
        self.console = console
        self.buffer_bytes = buffer_bytes
        self.on_data: Callable[[bytes], int | None] | None = None
        self.on_space: Callable[[], object] | None = None
        self.on_guest_open: Callable[[bool], object] | None = None
        # Guards all below. Never held over a callback, nor over a ring of the device's bell.
        self._lock = threading.Lock()
        self._ring: Callable[[], None] | None = None
        self._waiting = bytearray()
        self._starved = False
        self._blocked = False
        self._cut = False  # the host's end was closed: output in hand is not for it any more
        self._host_open = True
        self._guest_open = False
        self.size = (0, 0)
        # What the guest has not been told: openings and closings of the host's end, a new size.
        self._news: list[bool] = []
        self._resized = False

    @property
    def guest_open(self) -> bool:
        """Whether the guest's end is open."""
        return self._guest_open

    @property
    def host_open(self) -> bool:
        """Whether the host's end is open."""
        return self._host_open

    def send(self, data: bytes) -> int:
        """Offer bytes to the guest; returns how many were taken, 0 while the host's end is closed.

        Those that were not taken may be offered again after ``on_space``.
        """
        with self._lock:
            room = self.buffer_bytes - len(self._waiting) if self._host_open else 0
            taken = data[: max(0, room)]
            self._waiting += taken
            self._starved = self._starved or len(taken) < len(data)
        if taken:
            self._call_device()
        return len(taken)

    def open(self) -> None:
        """Open the host's end, and tell the guest; harmless when it is open."""
        with self._lock:
            if self._host_open:
                return
            self._host_open = True
            self._news.append(True)
        self._call_device()
        self._tell_space()

    def close(self) -> None:
        """Close the host's end, drop what is under way in both directions, and tell the guest."""
        with self._lock:
            if not self._host_open:
                return
            self._host_open = self._blocked = False
            self._cut = True
            self._waiting.clear()
            self._news = [False]
        self._call_device()

    def resume(self) -> None:
        """Go on with the output of the guest: there is room again after ``on_data`` took less."""
        with self._lock:
            self._blocked = False
        self._call_device()

    # What the device calls

    def attach(self, ring: Callable[[], None], size: tuple[int, int]) -> None:
        """Belong to a device, which comes when ``ring`` is called."""
        with self._lock:
            if self._ring is not None:
                raise ConfigurationError(f"console port {self.name!r} is in a console already")
            self._ring, self.size = ring, size

    def detach(self) -> None:
        """Belong to no device any more."""
        with self._lock:
            self._ring = None
            self._news = []
        self.forget_guest()

    def forget_guest(self) -> None:
        """Drop what the guest has not taken; its end is closed."""
        with self._lock:
            self._waiting.clear()
        self.set_guest_open(False)
        self._tell_space()

    def set_guest_open(self, is_open: bool) -> None:
        with self._lock:
            if self._guest_open == is_open or (is_open and self._ring is None):
                return
            self._guest_open = is_open
        if self.on_guest_open is not None:
            self.on_guest_open(is_open)

    def offer(self, data: bytes) -> int:
        """Offer output to the host; returns how many bytes are done with."""
        with self._lock:
            if self._blocked:
                return 0
            receive = self.on_data if self._host_open else None
            # Before the call: a resume() that comes before it returns must not be lost.
            self._blocked = receive is not None
        if receive is None:
            return len(data)
        taken = receive(data)
        if taken is None:
            taken = len(data)
        if not 0 <= taken <= len(data):
            raise InternalError(f"on_data of {self.name!r} took {taken} of {len(data)} bytes")
        if taken == len(data):
            self._blocked = False
        return taken

    def take_cut(self) -> bool:
        """Return whether the host's end was closed since the last call."""
        with self._lock:
            was_cut, self._cut = self._cut, False
        return was_cut

    @property
    def buffers_wanted(self) -> int:
        """About how many buffers of the guest would be filled now; 0 while there is nothing."""
        return -(-len(self._waiting) // PAGE_BYTES) if self._guest_open else 0

    def take(self, limit: int) -> bytes:
        """Take up to ``limit`` bytes for the guest; none when there is nothing any more."""
        with self._lock:
            data = bytes(self._waiting[:limit]) if self._guest_open else b""
            del self._waiting[: len(data)]
        self._tell_space()
        return data

    def _tell_space(self) -> None:
        """Call a sender that was refused, if it would not be now."""
        with self._lock:
            room = self._host_open and len(self._waiting) < self.buffer_bytes
            tell = self._starved and room
            self._starved = self._starved and not room
        if tell and self.on_space is not None:
            self.on_space()

    def resize(self, size: tuple[int, int]) -> None:
        with self._lock:
            self.size = size
            self._resized = True
        self._call_device()

    def take_news(self) -> tuple[list[bool], bool]:
        """Return what is to be told: openings, and whether there is a new size."""
        with self._lock:
            news, resized = self._news, self._resized
            self._news, self._resized = [], False
        return news, resized

    def _call_device(self) -> None:
        ring = self._ring
        if ring is not None:
            ring()

    # State

    def state(self) -> dict[str, Any]:
        with self._lock:
            return {
                "host_open": self._host_open,
                "guest_open": self._guest_open,
                "size": self.size,
                "waiting": bytes(self._waiting),
            }

    def restore(self, state: dict[str, Any], ring: Callable[[], None]) -> None:
        """Take over a saved state; the host's end stays as it is, and the guest is told of that."""
        with self._lock:
            self._ring = ring
            self.size = tuple(state["size"])
            self._waiting[:0] = state["waiting"] if self._host_open else b""
            self._cut = not self._host_open
            self._news = [] if self._host_open == state["host_open"] else [self._host_open]
        self.set_guest_open(state["guest_open"])


def _name(name: str) -> str:
    if not name.isprintable() or len(name.encode()) > NAME_BYTES_MAX:
        raise ConfigurationError(
            f"console port name {name[:40]!r}: at most {NAME_BYTES_MAX} printable bytes are allowed"
        )
    return name
