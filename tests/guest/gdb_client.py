"""A debugger of a few lines: packets of GDB's remote protocol over a socket, and Debian's gdb."""

import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import pytest

SECONDS: Final = 60.0

needs_gdb = pytest.mark.skipif(shutil.which("gdb") is None, reason="there is no gdb: apt has it")


class GdbClient:
    """Speaks with a stub; a ``with`` block closes the connection, without a word."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=SECONDS)
        self._data = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, content: str) -> None:
        """Send a packet."""
        data = content.encode()
        self.socket.sendall(b"$%s#%02x" % (data, sum(data) & 0xFF))

    def receive(self) -> str:
        """Return the content of the next packet, and acknowledge it."""
        while b"#" not in self._data or len(self._data) < self._data.index(b"#") + 3:
            more = self.socket.recv(4096)
            if not more:
                raise EOFError("the stub has closed the connection")
            self._data += more
        head, _, rest = self._data.partition(b"#")
        self._data = rest[2:]
        self.socket.sendall(b"+")
        return head.partition(b"$")[2].decode()

    def ask(self, content: str) -> str:
        """Send a packet and return the answer."""
        self.send(content)
        return self.receive()

    def monitor(self, command: str) -> str:
        """Return what a ``monitor`` command tells."""
        return bytes.fromhex(self.ask(f"qRcmd,{command.encode().hex()}")).decode()

    def position(self) -> int:
        """Return RIP of the thread that is looked at."""
        return int.from_bytes(bytes.fromhex(self.ask("p10")), "little")


def gdb(commands: Sequence[str], *files: Path, seconds: float = SECONDS) -> str:
    """Return what Debian's gdb says to commands, errors among it."""
    words = [word for command in commands for word in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-nx", "-nh", "-batch", "-ex", "set pagination off", *words, *map(str, files)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    return done.stdout
