"""Console output on its way to a descriptor of the host, without ever making a vCPU wait."""

import threading
from collections.abc import Callable

from virtio.log import Logger
from vmm.host.files import write_all
from vmm.host.resource import Resource
from vmm.host.threads import start_thread

SINK_CAPACITY_BYTES = 1024 * 1024
CLOSE_TIMEOUT_SECONDS = 2.0

# A guest prints byte by byte: this lets a burst gather, instead of a system call for each byte.
_WRITE_INTERVAL_SECONDS = 0.005
_CHUNK_BYTES = 16 * 1024

_log = Logger(__name__)


class OutputSink(Resource):
    """Writes to a descriptor of the host (terminal, pipe, file, socket) on a thread of its own.

    Non-blocking mode does not help: it belongs to the open file, which a terminal shares with the
    user's shell. Waiting until the descriptor is writable does not help either: a terminal that is
    writable may take less than it is given, and block. So one thread may block, and nobody else
    waits for it: ``write`` only appends to a buffer. When the buffer is full the oldest bytes go,
    because the last ones tell how a machine ended; ``dropped`` counts them.

    ``on_gone`` is called once, on that thread, with the error that showed that nobody reads any
    more (EPIPE, EIO, ENOSPC and the like); later output is discarded. The caller closes the
    descriptor after the sink.
    """

    def __init__(
        self,
        fd: int,
        name: str = "stdout",
        *,
        capacity: int = SINK_CAPACITY_BYTES,
        on_gone: Callable[[OSError], object] | None = None,
    ) -> None:
        self.name = name
        self.dropped = 0
        self._fd = fd
        self._capacity = capacity
        self._on_gone = on_gone
        self._changed = threading.Condition()
        self._buffer = bytearray()
        self._idle = False
        self._writing = False
        self._hurry = 0
        self._closing = False
        self._gone = False
        # A daemon: a reader that never comes back must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"output {name}", daemon=True)
        start_thread(self._thread)

    def write(self, data: bytes) -> None:
        """Take output; never blocks and never raises."""
        with self._changed:
            if self._gone or self._closing:
                return
            self._buffer += data
            excess = len(self._buffer) - self._capacity
            if excess > 0:
                del self._buffer[:excess]
                self.dropped += excess
            if self._idle:
                self._idle = False
                self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until everything is written or nobody reads; False after ``timeout`` seconds."""
        with self._changed:
            self._hurry += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(self._is_drained, timeout)
            finally:
                self._hurry -= 1

    def close(self, timeout: float = CLOSE_TIMEOUT_SECONDS) -> None:
        """Flush, end the thread, and log once how much output was lost, if any was."""
        drained = self.flush(timeout)
        with self._changed:
            self.dropped += len(self._buffer)
            self._buffer.clear()
            reported, self._closing = self._closing, True
            self._changed.notify_all()
        if drained:
            self._thread.join(timeout)
        if self.dropped and not reported:
            _log.warning(
                "%s: %d bytes of output dropped: not read in time", self.name, self.dropped
            )

    def _is_drained(self) -> bool:
        return self._gone or not (self._buffer or self._writing)

    def _run(self) -> None:
        while chunk := self._next_chunk():
            try:
                write_all(self._fd, chunk)
            except OSError as error:
                self._give_up(error)
                return
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _next_chunk(self) -> bytes:
        """Wait for output and take some; nothing when the sink is closed."""
        with self._changed:
            while not self._buffer:
                if self._closing:
                    return b""
                self._idle = True
                self._changed.wait()
            if len(self._buffer) < _CHUNK_BYTES:
                self._changed.wait_for(self._has_no_time, _WRITE_INTERVAL_SECONDS)
            chunk = bytes(self._buffer[:_CHUNK_BYTES])
            del self._buffer[:_CHUNK_BYTES]
            self._writing = bool(chunk)
        return chunk

    def _has_no_time(self) -> bool:
        return bool(self._hurry or self._closing)

    def _give_up(self, error: OSError) -> None:
        with self._changed:
            self._gone = True
            self._buffer.clear()
            self._changed.notify_all()
        _log.info("%s: nobody reads the output any more: %s", self.name, error)
        if self._on_gone is not None:
            self._on_gone(error)
