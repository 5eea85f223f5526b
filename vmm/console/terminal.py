"""The user's terminal: raw mode while a guest has it, the escape key, and input to the guest."""

import enum
import errno
import logging
import os
import signal
import termios
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

from virtio.errors import HostError
from vmm.host.loop import EventLoop

ESCAPE = 0x01
HELP_TEXT = (
    "Ctrl-A x  end the machine\r\n"
    "Ctrl-A a  send Ctrl-A to the guest\r\n"
    "Ctrl-A h  show this help\r\n"
)

PENDING_LIMIT_BYTES = 64 * 1024
_READ_BYTES = 4096

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

# Indices into what termios.tcgetattr() returns.
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6

_Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None

_log = logging.getLogger(__name__)


class EscapeAction(enum.Enum):
    """What the user asked for with the escape key."""

    QUIT = "quit"
    HELP = "help"


class EscapeFilter:
    """Takes Ctrl-A and the key after it out of the input; other keys after it are swallowed."""

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, data: bytes) -> tuple[bytes, EscapeAction | None]:
        """Return what is left for the guest, and what the user asked for, if anything.

        The key may come in a later call than the Ctrl-A. What follows a request to quit is
        dropped.
        """
        if not self._escaped and ESCAPE not in data:
            return data, None
        kept = bytearray()
        action = None
        for key in data:
            if not self._escaped:
                if key == ESCAPE:
                    self._escaped = True
                else:
                    kept.append(key)
                continue
            self._escaped = False
            if key in b"xX":
                return bytes(kept), EscapeAction.QUIT
            if key in b"hH?":
                action = EscapeAction.HELP
            elif key in b"aA\x01":
                kept.append(ESCAPE)
        return bytes(kept), action


class RawTerminal:
    """Puts a terminal into raw mode, and back on every way out that a process can see.

    Leaving the context restores it. So do SIGTERM, SIGHUP and SIGQUIT, after which the handler
    that was there before gets its turn, and SIGTSTP, until the process is continued in the
    foreground. Does nothing when ``fd`` is not a terminal. Must be used on the main thread, where
    Python delivers signals. Raises HostError when the terminal cannot be changed.

    Keys such as Ctrl-C reach the guest. Output processing stays on: a guest ends its lines with
    CR LF and does not need it, but messages of the host on the same terminal do.
    """

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._saved: list[Any] | None = None
        self._handlers: dict[int, _Handler] = {}

    def __enter__(self) -> Self:
        if os.isatty(self._fd):
            try:
                self._saved = termios.tcgetattr(self._fd)
                self._catch_signals()
                self._make_raw()
            except termios.error as error:
                self.__exit__(None, None, None)
                raise HostError("tcsetattr", error.args[0], f"descriptor {self._fd}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()
        self._saved = None
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def _catch_signals(self) -> None:
        handlers = dict.fromkeys(_ENDING_SIGNALS, self._end)
        handlers |= {signal.SIGTSTP: self._suspend, signal.SIGCONT: self._resume}
        for number, handler in handlers.items():
            # What nohup(1) or a shell without job control made the process ignore stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, handler)

    def _make_raw(self) -> None:
        if self._saved is None or _is_in_background(self._fd):
            return
        raw = [*self._saved[:_CC], list(self._saved[_CC])]
        raw[_IFLAG] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        raw[_OFLAG] |= termios.OPOST
        raw[_CFLAG] = raw[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[_LFLAG] &= ~(
            termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN
        )
        raw[_CC][termios.VMIN] = 1
        raw[_CC][termios.VTIME] = 0
        termios.tcsetattr(self._fd, termios.TCSANOW, raw)

    def _restore(self) -> None:
        # Without waiting for output to drain, which on a stopped terminal it never does; and a
        # terminal that is gone needs no restoring.
        if self._saved is not None:
            with suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        previous = self._handlers.get(number)
        if callable(previous):
            previous(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        # Not SIGTSTP again: another thread may take it, after this handler is back in place.
        os.kill(os.getpid(), signal.SIGSTOP)

    def _resume(self, number: int, frame: FrameType | None) -> None:
        with suppress(termios.error):
            self._make_raw()


def _is_in_background(fd: int) -> bool:
    """Whether changing the terminal would stop the process with SIGTTOU."""
    try:
        return os.tcgetpgrp(fd) != os.getpgrp()
    except OSError:
        # Not the controlling terminal, so there is no job control on it.
        return False


class ConsoleInput:
    """Carries input from a descriptor of the host to the guest, as fast as the guest takes it.

    ``receive(data)`` offers bytes to the guest's device and returns how many it took; the device
    calls ``on_space``, from any thread, when it would take more after having taken too few. When
    PENDING_LIMIT_BYTES wait, reading stops until there is room. The end of the input, or its
    failure, ends the reading and nothing else.

    With ``on_action`` the input comes from a user, and the escape key works, also while the guest
    takes nothing. ``on_end`` is called at the end of the input: of a terminal in raw mode, that is
    when it went away. Callbacks are made on the loop's thread.
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
        """Read no more; a read that is going on may still deliver."""
        self._ended = True
        self._loop.call_soon_threadsafe(self._go_on)

    def on_space(self) -> None:
        """Say that ``receive`` would take more; from any thread."""
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
