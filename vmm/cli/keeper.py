"""A process outside of the sandbox: does what is left to do when a confined one has ended.

A confined machine opens no file, so it can neither boot again nor give a folder its name. So its
process is a child of one that has opened nothing of the guest's, and gets nothing from the guest.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from vmm.cli.heeded import heeding
from vmm.cli.status import status_of

_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PR_SET_PDEATHSIG: Final = 1
_SIGNALLED: Final = 128


def run_confined(work: Callable[[], int]) -> int:
    """Do ``work`` in a child process, and return its status, as a shell would tell it.

    The child ends with this process; signals that end this process go to the child, and to the
    handlers that were there before. This process stops once the child has: else a shell would
    believe a job stopped that has yet to, and continue what then stops.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal that comes before this process heeds it would stop or end this one alone.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (*_FORWARDED, signal.SIGTSTP))
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        status = 1
        try:
            status = status_of(work)
        finally:
            os._exit(status)

    before = {number: signal.getsignal(number) for number in _FORWARDED}

    def forward(number: int, frame: Any) -> None:
        os.kill(child, number)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    with heeding(_FORWARDED, forward), heeding((signal.SIGTSTP,), _wait_for_the_child):
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        _, waited = os.waitpid(child, os.WUNTRACED)
        while os.WIFSTOPPED(waited):  # the user suspends the job, of which this process is a part
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(child, signal.SIGCONT)
            _, waited = os.waitpid(child, os.WUNTRACED)
    status = os.waitstatus_to_exitcode(waited)
    if status == -signal.SIGSYS:
        print("vmm: the sandbox ended the machine, for a system call", file=sys.stderr)
    return status if status >= 0 else _SIGNALLED - status


def _wait_for_the_child(number: int, frame: Any) -> None:
    """Stop at no signal of the terminal, which the child has, too."""
