"""Raw mode of the user's terminal, for as long as a guest has it: termios(3)."""

import os
import signal
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Self

from virtio.errors import HostError
from vmm.console.foreground import is_in_background, may_stop

_NUDGES = 100
_NUDGE_SECONDS = 0.02

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

# Indices into what termios.tcgetattr() returns.
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6

_Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


class RawTerminal:
    """Puts a terminal into raw mode, and back on every way out that a process can see.

    Leaving the context restores it. So do SIGTERM, SIGHUP and SIGQUIT, which then call the handler
    from before, and SIGTSTP, until the process continues in the foreground. A terminal whose
    foreground belongs to others is never touched: see :meth:`make_raw`. Does nothing when ``fd`` is
    not a terminal. Use it on the main thread, where Python delivers signals; ``on_continue`` is
    called there when the process continues, and must take no lock. Raises HostError when the
    terminal cannot be changed.

    Keys such as Ctrl-C reach the guest. Output processing stays on: a guest ends its lines with
    CR LF and does not need it, but messages of the host on the same terminal do.
    """

    def __init__(self, fd: int = 0, on_continue: Callable[[], object] | None = None) -> None:
        self._fd = fd
        self._on_continue = on_continue
        self._saved: list[Any] | None = None
        self._is_raw = False
        self._may_stop = False
        self._has_stopped = False
        self._handlers: dict[int, _Handler] = {}

    def __enter__(self) -> Self:
        if os.isatty(self._fd):
            try:
                self._saved = termios.tcgetattr(self._fd)
                self._may_stop = may_stop()
                self._catch_signals()
                self._set_raw()
            except termios.error as error:
                self.__exit__()
                raise HostError("tcsetattr", error.args[0], f"descriptor {self._fd}") from error
        return self

    def __exit__(self, *error: object) -> None:
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

    def make_raw(self) -> None:
        """Make the terminal raw if it is ours now and was not at first; from any thread."""
        with suppress(termios.error):
            self._set_raw()

    def suspend(self) -> None:
        """Stop this process group as Ctrl-Z does on another terminal; from any thread.

        Where nobody would continue it nothing happens.
        """
        if not self._may_stop:
            return
        self._has_stopped = False
        os.kill(0, signal.SIGTSTP)
        # A signal that comes while the main thread goes into a wait is handled after that wait, as
        # long as the guest runs; one more ends the wait. Of this one nobody minds another.
        for _ in range(_NUDGES):
            if self._has_stopped:
                return
            time.sleep(_NUDGE_SECONDS)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGWINCH)

    def _set_raw(self) -> None:
        if self._saved is None or is_in_background(self._fd):
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
        self._change(raw)
        self._is_raw = True

    def _restore(self) -> None:
        # Not in the background: whoever has the foreground has set the modes that it wants. Without
        # waiting for output to drain, which on a stopped terminal it never does. A terminal that
        # is gone needs no restoring.
        if self._saved is not None and self._is_raw and not is_in_background(self._fd):
            with suppress(termios.error):
                self._change(self._saved)
        self._is_raw = False

    def _change(self, modes: list[Any]) -> None:
        """Change the modes; a foreground that is lost meanwhile must not stop this process."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            termios.tcsetattr(self._fd, termios.TCSANOW, modes)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

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
        self._has_stopped = True
        # Not SIGTSTP again: another thread may take it, after this handler is back in place.
        os.kill(os.getpid(), signal.SIGSTOP)

    def _resume(self, number: int, frame: FrameType | None) -> None:
        self.make_raw()
        if self._on_continue is not None:
            self._on_continue()
