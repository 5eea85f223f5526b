"""Starting threads that leave signals to the main thread, where Python's handlers run."""

import signal
import threading
from typing import Final

FOR_THE_MAIN_THREAD: Final = frozenset(
    {
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGTSTP,
        signal.SIGCONT,
        signal.SIGWINCH,
    }
)


def start_thread(thread: threading.Thread) -> None:
    """Start a thread, which blocks these signals, as do the threads that it starts.

    Linux gives a signal of the process to any thread that does not block it; one that continues a
    stopped process goes to whichever thread wakes first (complete_signal() in kernel/signal.c). On
    another than the main thread it does not interrupt what that waits for, and so Python's handler
    may not run for as long as the guest does.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_MAIN_THREAD)
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def end_thread(thread: threading.Thread) -> None:
    """Have SystemExit raised in a thread, before its next step in Python.

    A loop of Python's ends so; a call of the host's has to return first. In a sandbox that hides
    ctypes this does nothing.
    """
    try:
        import ctypes
    except (ImportError, OSError):
        return
    ident = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit))
