"""The exit status of a command, and the line on stderr about an error that ended it."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TextIO

from vmm.cli.refusal import explain
from vmm.console.text import printable
from vmm.ending.ending import STATUS_INTERRUPTED

_LONGEST: Final = 8192  # a path of Linux fits in, with what is said of it


def status_of(work: Callable[[], int]) -> int:
    """Do some work and return its status, or that of the error that ended it."""
    try:
        status = work()
        sys.stdout.flush()
    except BrokenPipeError:
        forget(sys.stdout)
        status = STATUS_INTERRUPTED
    except KeyboardInterrupt:
        _complain("interrupted")
        status = STATUS_INTERRUPTED
    except Exception as error:
        status = explain(error, _complain)
    try:
        sys.stderr.flush()
    except OSError:  # the terminal went away: what is left was for it
        forget(sys.stderr)
    return status


def forget(stream: TextIO) -> None:
    """Drop output that nobody reads, so that the interpreter's end does not fail over it again.

    It goes into memory: in a sandbox no file can be opened, and it is little.
    """
    nowhere = os.memfd_create("output that nobody reads", os.MFD_CLOEXEC)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _complain(message: str) -> None:
    """Print one line, also for a name that has line breaks or what a terminal obeys in it."""
    with suppress(OSError):
        print(f"vmm: {printable(message, _LONGEST)}", file=sys.stderr)
