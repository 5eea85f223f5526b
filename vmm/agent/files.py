"""Reads and writes files of the guest."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vmm.agent import protocol
from vmm.agent.errors import AgentLostError, AgentTimeoutError, OutputLimitError, guest_error
from vmm.agent.job import CREDIT_BYTES, Job
from vmm.agent.link import Link
from vmm.agent.protocol import How, Request

BASE_SECONDS: Final = 60.0
SLOWEST_BYTES_PER_SECOND: Final = 64 << 10
"""A guest whose code is emulated on a busy processor takes ten times as much."""

_STEP_BYTES: Final = 64 << 10
_DONE: Final = {"read": "read", "write": "written"}


class Transfer:
    """One file on its way, in ``timeout`` seconds, or as long as a slow guest takes for its bytes.

    An error says which file it was, and how far it came.
    """

    def __init__(
        self, action: str, path: bytes, timeout: float | None, of_bytes: int | None = None
    ) -> None:
        self.moved = 0
        self._of_bytes = of_bytes
        self._action = action
        self._name = os.fsdecode(path)
        self._timeout = timeout
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the transfer may take, with the bytes that were moved so far."""
        if self._timeout is not None:
            return self._timeout
        return BASE_SECONDS + self.moved / SLOWEST_BYTES_PER_SECOND

    @property
    def deadline(self) -> float:
        """When that time is over."""
        return self._started + self.seconds

    @property
    def _progress(self) -> str:
        of = "" if self._of_bytes is None else f" of {self._of_bytes}"
        return f"{self.moved}{of} bytes"

    @contextmanager
    def job(self, link: Link, kind: Request, request: bytes) -> Iterator[Job]:
        """Begin a job; it is abandoned when the block is left before its end."""
        try:
            job = link.begin(kind, request, self.deadline)
            try:
                yield job
            finally:
                job.abandon()
        except AgentTimeoutError as error:
            raise AgentTimeoutError(
                f"guest: cannot {self._action} {self._name!r} in {self.seconds:.3g} s"
                f" ({self._progress} went over): {error}"
            ) from error
        except AgentLostError as error:
            lost = AgentLostError(f"{error} (to {self._action} {self._name!r}: {self._progress})")
            lost.doing = f"{self._name!r} was {_DONE[self._action]}, {self._progress}"
            raise lost from None
        status = job.final_status()
        if status.how == How.FAILED:
            raise guest_error(status.value, self._action, self._name)

    def read(self, link: Link, request: bytes, limit_bytes: int) -> bytes:
        """Return the content of the file."""
        content = bytearray()
        with self.job(link, Request.READ, request) as job:
            while output := job.receive(self.deadline):
                content += output.data
                self.moved = len(content)
                if self.moved > limit_bytes:
                    raise OutputLimitError(f"guest: {self._name}: more than {limit_bytes} bytes")
        return bytes(content)

    def write(self, link: Link, request: bytes, data: bytes) -> None:
        """Make the file hold ``data``."""
        with self.job(link, Request.WRITE, request) as job:
            for at in range(0, len(data), _STEP_BYTES):
                piece = memoryview(data)[at : at + _STEP_BYTES]
                job.send(piece, self.deadline)
                self.moved += len(piece)
            job.end_input()
            job.wait(self.deadline)


def read_file(link: Link, path: bytes, timeout: float | None, limit_bytes: int) -> bytes:
    """Return what a file of the guest holds."""
    request = protocol.file(CREDIT_BYTES, path)
    return Transfer("read", path, timeout).read(link, request, limit_bytes)


def write_file(link: Link, path: bytes, data: bytes, mode: int, timeout: float | None) -> None:
    """Make a file of the guest hold ``data``."""
    Transfer("write", path, timeout, len(data)).write(link, protocol.file(mode, path), data)
