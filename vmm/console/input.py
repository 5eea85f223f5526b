"""Input from a descriptor of the host to a guest: a terminal, a pipe, a file."""

import errno
import os
import signal
from collections.abc import Callable

from virtio.errors import HostError
from virtio.log import Logger
from vmm.console.escape import EscapeAction, EscapeFilter
from vmm.console.foreground import is_in_background
from vmm.host.loop import EventLoop

PENDING_LIMIT_BYTES = 64 * 1024
USER_LIMIT_BYTES = 1024 * 1024
_READ_BYTES = 16 * 1024

# How often a process in the background looks whether its terminal is its own again: a shell that
# puts a running job into the foreground sends no signal.
_FOREGROUND_STEP_SECONDS = 0.5

_log = Logger(__name__)


class ConsoleInput:
    """Carries input from a descriptor of the host to the guest, as fast as the guest takes it.

    ``receive(data)`` offers bytes to whoever takes them in the guest and returns how many were
    taken. After fewer, :meth:`on_space` is called, from any thread, when there is room again. When
    PENDING_LIMIT_BYTES wait, reading stops until there is room. The end of the input, or its
    failure, ends the reading and nothing else; ``on_delivered`` is called when the guest then has
    all of it.

    With ``on_action`` the input comes from a user and the escape key works whatever waits: then
    reading never stops, and what comes when USER_LIMIT_BYTES wait is dropped. ``on_end`` is called
    at the end of the input, which for a terminal in raw mode means that it went away.

    A terminal whose foreground belongs to others is left alone; when it is ours again
    ``on_foreground`` is called and reading goes on. Callbacks run on the loop's thread.
    """

    def __init__(
        self,
        loop: EventLoop,
        fd: int,
        receive: Callable[[bytes], int],
        on_action: Callable[[EscapeAction], object] | None = None,
        on_end: Callable[[], object] | None = None,
        *,
        on_delivered: Callable[[], object] | None = None,
        on_foreground: Callable[[], object] | None = None,
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._receive = receive
        self._on_action = on_action
        self._on_end = on_end
        self._on_delivered = on_delivered
        self._on_foreground = on_foreground
        self._filter = EscapeFilter()
        self._pending = bytearray()
        self._ended = False
        self._stopped = False
        self._watching = False
        self._always_ready = False
        self._in_background = False
        self._has_dropped = False

    def start(self) -> None:
        """Begin to read; call it once, from any thread, before or while the loop runs."""
        self._loop.call_soon_threadsafe(self._begin)

    def stop(self) -> None:
        """Stop reading; a read in progress may still deliver."""
        self._ended = self._stopped = True
        self._loop.call_soon_threadsafe(self._go_on)

    def look(self) -> None:
        """Look whose the terminal is, as that may have changed; on the loop's thread."""
        if self._ended:
            return
        if is_in_background(self._fd):
            self._leave_alone()
        elif self._on_foreground is not None:
            # It may have become ours since somebody else looked: the machine's start, a signal.
            self._on_foreground()

    def on_space(self) -> None:
        """Note that ``receive`` has room again; from any thread."""
        self._loop.call_soon_threadsafe(self._deliver)

    def _begin(self) -> None:
        # So a read of a terminal that has just become another's fails, and does not stop us.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTIN})
        self.look()
        self._go_on()

    def _deliver(self) -> None:
        while self._pending:
            offered = bytes(self._pending[:_READ_BYTES])
            accepted = self._receive(offered)
            del self._pending[:accepted]
            if accepted < len(offered):
                break
        if self._ended and not self._stopped and not self._pending:
            self._stopped = True
            if self._on_delivered is not None:
                self._on_delivered()
        self._go_on()

    def _read(self) -> None:
        if is_in_background(self._fd):
            self._leave_alone()
            return
        data = self._read_some()
        action = None
        if data and self._on_action is not None:
            data, action = self._filter.feed(data)
            data = self._cut(data)
        self._pending += data
        self._deliver()
        if action is not None and self._on_action is not None:
            self._on_action(action)

    def _cut(self, data: bytes) -> bytes:
        """Return what of a user's input is kept."""
        room = USER_LIMIT_BYTES - len(self._pending)
        if len(data) > room and not self._has_dropped:
            self._has_dropped = True
            _log.warning("input: the guest reads none of %d bytes: more is dropped", room)
        return data[: max(0, room)]

    def _read_some(self) -> bytes:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            if error.errno == errno.EIO and is_in_background(self._fd):
                self._leave_alone()
                return b""
            log = _log.info if error.errno == errno.EIO else _log.warning
            log("input: %s", error.strerror)
            data = b""
        if not data and not self._ended:
            self._ended = True
            if self._on_end is not None:
                self._on_end()
        return data

    def _leave_alone(self) -> None:
        """Look again in a while whether the terminal is ours."""
        if not self._in_background:
            self._in_background = True
            self._loop.call_later(_FOREGROUND_STEP_SECONDS, self._look_again)
        self._go_on()

    def _look_again(self) -> None:
        self._in_background = False
        if self._ended:
            return
        if is_in_background(self._fd):
            self._leave_alone()
            return
        if self._on_foreground is not None:
            self._on_foreground()
        self._go_on()

    def _go_on(self) -> None:
        """Watch the descriptor exactly as long as more input is wanted."""
        has_room = len(self._pending) < PENDING_LIMIT_BYTES or self._on_action is not None
        wanted = has_room and not self._ended and not self._in_background
        if wanted == self._watching:
            return
        self._watching = wanted
        if not wanted:
            self._loop.remove_reader(self._fd)
        elif self._always_ready:
            self._read_file()
        else:
            self._watch()

    def _watch(self) -> None:
        try:
            self._loop.add_reader(self._fd, self._read)
        except HostError as error:
            # A regular file or /dev/null: always ready, and nothing that epoll(7) can wait for.
            if error.errno != errno.EPERM:
                raise
            self._always_ready = True
            self._read_file()

    def _read_file(self) -> None:
        self._loop.call_soon_threadsafe(self._read_file_once)

    def _read_file_once(self) -> None:
        if self._watching:
            self._read()
        if self._watching:
            self._read_file()
