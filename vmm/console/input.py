"""Input from a descriptor of the host to a guest: a terminal, a pipe, a file."""

import errno
import os
from collections.abc import Callable

from virtio.errors import HostError
from virtio.log import Logger
from vmm.console.escape import EscapeAction, EscapeFilter
from vmm.host.loop import EventLoop

PENDING_LIMIT_BYTES = 64 * 1024
_READ_BYTES = 4096

_log = Logger(__name__)


class ConsoleInput:
    """Carries input from a descriptor of the host to the guest, as fast as the guest takes it.

    ``receive(data)`` offers bytes to the guest's device and returns how many the device took. A
    device that took too few calls ``on_space``, from any thread, when it has room again. When
    PENDING_LIMIT_BYTES wait, reading stops until there is room. The end of the input, or its
    failure, ends the reading and nothing else.

    With ``on_action`` the input comes from a user and the escape key works, also while the guest
    takes nothing. ``on_end`` is called at the end of the input, which for a terminal in raw mode
    means that it went away. Callbacks run on the loop's thread.
    """

    def __init__(
        self,
        loop: EventLoop,
        fd: int,
        receive: Callable[[bytes], int],
        on_action: Callable[[EscapeAction], object] | None = None,
        on_end: Callable[[], object] | None = None,
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._receive = receive
        self._on_action = on_action
        self._on_end = on_end
        self._filter = EscapeFilter()
        self._pending = bytearray()
        self._ended = False
        self._watching = False
        self._always_ready = False

    def start(self) -> None:
        """Begin to read; call it once, from any thread, before or while the loop runs."""
        self._loop.call_soon_threadsafe(self._go_on)

    def stop(self) -> None:
        """Stop reading; a read in progress may still deliver."""
        self._ended = True
        self._loop.call_soon_threadsafe(self._go_on)

    def on_space(self) -> None:
        """Note that ``receive`` has room again; from any thread."""
        self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        while self._pending:
            offered = bytes(self._pending[:_READ_BYTES])
            accepted = self._receive(offered)
            del self._pending[:accepted]
            if accepted < len(offered):
                break
        self._go_on()

    def _read(self) -> None:
        data = self._read_some()
        action = None
        if data and self._on_action is not None:
            data, action = self._filter.feed(data)
        self._pending += data
        self._deliver()
        if action is not None and self._on_action is not None:
            self._on_action(action)

    def _read_some(self) -> bytes:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            _log.info("console input: %s", error)
            data = b""
        if not data and not self._ended:
            self._ended = True
            if self._on_end is not None:
                self._on_end()
        return data

    def _go_on(self) -> None:
        """Watch the descriptor exactly as long as more input is wanted."""
        wanted = not self._ended and len(self._pending) < PENDING_LIMIT_BYTES
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
