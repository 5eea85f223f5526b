"""NBD servers for tests: nbdkit, which is stopped and killed, over a file."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.spec.threads import wait_until
from virtio.errors import ConfigurationError
from vmm.disk.nbd.library import library

SIZE = 4 << 20


def skip_without_nbd() -> None:
    """Skip the test, and say why, where there is no server, or no library."""
    if shutil.which("nbdkit") is None:
        pytest.skip("nbdkit is not installed")
    try:
        library()
    except ConfigurationError as error:
        pytest.skip(str(error))


class Nbdkit:
    """An nbdkit on a UNIX socket, over a file of 4 MiB that outlives it."""

    def __init__(self, folder: Path, *options: str, parameters: Sequence[str] = ()) -> None:
        self.file = folder / "file"
        self.socket = folder / "socket"
        self.url = f"nbd+unix:///?socket={self.socket}"
        self._command = [
            *("nbdkit", "--foreground", "--exit-with-parent", "--unix", str(self.socket)),
            *("--pidfile", str(folder / "listens"), *options, "file", str(self.file), *parameters),
        ]
        self.file.write_bytes(b"\x11" * SIZE)
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, once more perhaps, and wait until it listens."""
        self.socket.unlink(missing_ok=True)
        listens = self.socket.with_name("listens")
        listens.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(listens.exists)
        return self.process

    def stall(self) -> None:
        """Have it say nothing any more."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)  # its threads go on for a moment

    def go_on(self) -> None:
        """Have it answer again."""
        self.process.send_signal(signal.SIGCONT)

    def die(self) -> None:
        """Kill it, and remove its socket."""
        self.process.kill()
        self.process.wait()
        self.socket.unlink(missing_ok=True)


@contextmanager
def nbdkit(folder: Path, *options: str, parameters: Sequence[str] = ()) -> Iterator[Nbdkit]:
    """Run a server for a block of code."""
    skip_without_nbd()
    server = Nbdkit(folder, *options, parameters=parameters)
    try:
        yield server
    finally:
        server.die()


def children_named(word: str) -> list[int]:
    """Return the processes whose command line has a word in it."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                command = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if word.encode() in command:
                found.append(int(name))
    return found
