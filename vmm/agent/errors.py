"""The errors of the agent and of what it does for the host.

Each message is safe to show: text of the guest is escaped and cut.
"""

import errno
import os
import shlex
import signal
from collections.abc import Sequence

from virtio.errors import Error
from vmm.console.text import printable

_SHOWN_CHARACTERS = 2000


class AgentTimeoutError(Error, TimeoutError):
    """The agent did not answer in time."""


class AgentLostError(Error):
    """The agent began anew or ended: its work is lost.

    ``doing`` says how far a file had come on its way then.
    """

    doing = ""


class AgentProtocolError(Error):
    """The agent broke the protocol, or said what cannot be: nothing of it is believed."""


class OutputLimitError(Error):
    """The guest sent more than the caller wants to have in memory."""


class GuestOSError(Error, OSError):
    """The guest's kernel refused a file or a program; ``errno`` and ``filename`` say which."""

    def __init__(self, number: int, action: str, name: str) -> None:
        OSError.__init__(self, number, os.strerror(number), name)
        self._action = action

    def __str__(self) -> str:
        return f"guest: cannot {self._action} {self.filename!r}: {self.strerror}"


class GuestFileNotFoundError(GuestOSError, FileNotFoundError):
    """ENOENT in the guest."""


class GuestPermissionError(GuestOSError, PermissionError):
    """EACCES or EPERM in the guest."""


def guest_error(number: int, action: str, name: str) -> GuestOSError:
    """Return the error for an errno of the guest, of the class that Python has for it."""
    if number == errno.ENOENT:
        return GuestFileNotFoundError(number, action, name)
    if number in (errno.EACCES, errno.EPERM):
        return GuestPermissionError(number, action, name)
    return GuestOSError(number, action, name)


class CommandFailed(Error):
    """A command ended with another status than 0; has what ``subprocess.CalledProcessError`` has.

    ``stdout`` and ``stderr`` are ``str``, or ``bytes`` when that was asked for.
    """

    def __init__(
        self, args: Sequence[str], returncode: int, stdout: str | bytes, stderr: str | bytes
    ) -> None:
        self.cmd = list(args)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        super().__init__(f"guest: {shlex.join(args)}: {_ended(returncode)}{_tail(stderr, stdout)}")


class CommandTimeoutError(Error, TimeoutError):
    """A command was killed when its time was over; ``stdout`` and ``stderr`` are its output."""

    def __init__(
        self, args: Sequence[str], timeout: float, stdout: str | bytes, stderr: str | bytes
    ) -> None:
        self.cmd = list(args)
        self.timeout = timeout
        self.stdout = stdout
        self.stderr = stderr
        ended = f"killed after {timeout:g} s"
        super().__init__(f"guest: {shlex.join(args)}: {ended}{_tail(stderr, stdout)}")


def _ended(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"


def _tail(*outputs: str | bytes) -> str:
    """Return the end of the first output that is not empty, on lines of its own."""
    for output in outputs:
        text = output if isinstance(output, str) else output.decode(errors="replace")
        if text.strip():
            lines = text[-_SHOWN_CHARACTERS:].rstrip().splitlines()
            return "\n    ".join([":", *map(printable, lines)])
    return ""
