"""The installed command ``vmm``, as a shell starts it: with pipes, files and terminals."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DEADLINE = 120.0
"""For one step of a test: far more than a busy host needs, and less than a test has."""

VMM = str(Path(sys.executable).with_name("vmm"))


def shell(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run a script of bash, whose ``$vmm`` is the command, and take what it writes."""
    return subprocess.run(
        ["bash", "-c", script, "bash", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE,
        env=os.environ | {"vmm": VMM},
    )


class Terminal:
    """Whoever sits at a terminal: types, reads, and looks at its modes."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self.fd = fd
        self.seen = b""

    def type(self, data: bytes) -> None:
        """Press keys; what the other side does not take now is typed as it does."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.fd, rest) :]

    def read_until(self, wanted: bytes) -> bytes:
        """Read on until ``wanted`` has come; returns all since the last call."""
        end = time.monotonic() + DEADLINE
        while wanted not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"no {wanted!r} in {self.seen!r}"
            assert select.select([self.fd], [], [], left)[0], f"no {wanted!r} in {self.seen!r}"
            self.seen += os.read(self.fd, 65536)
        found, _, self.seen = self.seen.partition(wanted)
        return found + wanted

    def resize(self, columns: int, rows: int) -> None:
        """Give the window another size."""
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def is_raw(self) -> bool:
        """Whether keys such as Ctrl-C go to the program."""
        flags: int = termios.tcgetattr(self.fd)[3]
        return not flags & (termios.ICANON | termios.ISIG)

    def wait_until(self, *, raw: bool) -> None:
        """Wait until the terminal is in this mode."""
        end = time.monotonic() + DEADLINE
        while self.is_raw() != raw:
            assert time.monotonic() < end, f"raw mode: {not raw}"
            select.select([], [], [], 0.02)

    def wait(self) -> int:
        """Read on until the process ends, and return its status."""
        with suppress(OSError):  # EIO: the terminal's other end is closed
            while select.select([self.fd], [], [], DEADLINE)[0]:
                self.seen += os.read(self.fd, 65536)
            raise AssertionError(f"it goes on after {self.seen!r}")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def on_terminal(*command: str | Path, size: tuple[int, int] = (80, 24)) -> Iterator[Terminal]:
    """Run a command as the leader of a terminal, and give the user's side of it."""
    words = [str(word) for word in command]
    environment = os.environ | {"vmm": VMM, "PS1": "$ ", "HISTFILE": "", "TERM": "xterm"}
    environment.pop("PYTHONUNBUFFERED", None)
    pid, fd = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", size[1], size[0], 0, 0))
        os.execvpe(words[0], words, environment)
    try:
        yield Terminal(pid, fd)
    finally:
        os.close(fd)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
