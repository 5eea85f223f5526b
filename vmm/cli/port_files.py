"""Files of the host that take what a guest writes to its console ports: ``--port NAME=FILE``."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from typing import Final

from virtio.console import ConsolePort
from virtio.errors import ConfigurationError
from vmm.cli.stream_writer import LAST_SECONDS, StreamWriter

_MOST_WAITING_BYTES: Final = 1 << 20


class PortFiles:
    """Opens the files of ports before the guest runs. A context manager's stack closes them.

    Raises :class:`ConfigurationError` for one that cannot be written.
    """

    def __init__(self, files: dict[str, str], stack: ExitStack) -> None:
        self._opened = {name: _open(name, file, stack) for name, file in files.items() if file}

    def connect(self, ports: dict[str, ConsolePort], stack: ExitStack) -> None:
        """Let the files take the output of the ports of their names, until the stack ends.

        Raises :class:`ConfigurationError` for a port that the guest has not.
        """
        for name, fd in self._opened.items():
            if name not in ports:
                known = ", ".join(ports) or "none"
                raise ConfigurationError(f"--port {name}: the guest's console ports are: {known}")
            outlet = _Outlet(ports[name], fd, f"port {name}")
            stack.callback(outlet.writer.drain, LAST_SECONDS)


def _open(name: str, file: str, stack: ExitStack) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY
    try:
        # Without O_NONBLOCK a FIFO would wait here for its reader.
        fd = os.open(file, flags | os.O_NONBLOCK, 0o666)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"--port {name}={file}: cannot be written: {reason}") from error
    stack.callback(os.close, fd)
    os.set_blocking(fd, True)
    return fd


class _Outlet:
    """Hands a port's output to a writer, and lets the guest wait while much of it is unwritten."""

    def __init__(self, port: ConsolePort, fd: int, name: str) -> None:
        self.writer = StreamWriter(fd, name)
        self.writer.on_written = self._written
        self._port = port
        self._lock = threading.Lock()
        self._waiting = 0
        port.on_data = self._take

    def _take(self, data: bytes) -> int | None:
        with self._lock:
            if self._waiting >= _MOST_WAITING_BYTES:
                return 0
            self._waiting += len(data)
        self.writer.put(data)
        return None

    def _written(self, count: int) -> None:
        with self._lock:
            self._waiting -= count
        self._port.resume()  # after each piece: the guest may have begun to wait just now
