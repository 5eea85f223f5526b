"""A command in the guest, and the result of one; both speak as ``subprocess`` does."""

import errno
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM
from typing import Final, Self

from vmm.agent.answers import Status
from vmm.agent.errors import (
    AgentProtocolError,
    AgentTimeoutError,
    CommandFailed,
    CommandTimeoutError,
    OutputLimitError,
    guest_error,
)
from vmm.agent.job import Job
from vmm.agent.output import Output
from vmm.agent.protocol import How
from vmm.host.clock import deadline_in

LIMIT_BYTES: Final = 256 << 20
_FOREVER: Final = 365 * 86400.0
# What the guest has beyond a command's own time to kill it and to say so; some are slow.
_GRACE_SECONDS: Final = 15.0
_NOT_FOUND: Final = 127


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended: ``returncode`` is its exit status, or -n when signal n ended it.

    ``stdout`` and ``stderr`` are ``str``, or ``bytes`` when that was asked for; ``duration_s`` is
    the time until the host knew, in seconds.
    """

    args: list[str]
    returncode: int
    stdout: str | bytes
    stderr: str | bytes
    duration_s: float

    def check(self) -> Self:
        """Return the result itself; raises ``CommandFailed`` when the status is not 0."""
        if self.returncode:
            raise CommandFailed(self.args, self.returncode, self.stdout, self.stderr)
        return self


class Process:
    """A command in the guest. Leaving its ``with`` block kills it.

    Iterating gives the output as it comes. The guest waits when nobody takes the output. A program
    that cannot be executed is an error of the first call that waits for the command. A command with
    a time of its own is killed by the guest, and some seconds later by the host's clock.
    """

    def __init__(
        self,
        job: Job,
        args: Sequence[str],
        *,
        folder: str | None,
        timeout: float | None,
        has_input: bool,
    ) -> None:
        self.args = list(args)
        self._job = job
        self._folder = folder
        self._timeout = timeout
        self._has_input = has_input
        self._started = time.monotonic()
        self._deadline = self._started + (_FOREVER if timeout is None else timeout + _GRACE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._job.abandon()

    def __iter__(self) -> Iterator[Output]:
        """Give the output as it comes, until the command has ended; then ``wait`` is immediate.

        Raises ``CommandTimeoutError`` for a command that the guest does not kill in time.
        """
        while output := self._receive():
            yield output

    def _receive(self) -> Output | None:
        with self._waiting(_FOREVER) as deadline:
            return self._job.receive(deadline)

    def take(self) -> Output | None:
        """Return the next output, None when the command has ended and all is taken.

        As the iteration, but the guest sends more only for what :meth:`taken` is told of.
        """
        with self._waiting(_FOREVER) as deadline:
            return self._job.next_output(deadline)

    def taken(self, stream: str, count: int) -> None:
        """Say that ``count`` bytes of what :meth:`take` returned have found their place."""
        self._job.give_credit(stream, count)

    def close_output(self, stream: str) -> None:
        """Let whoever writes to ``"stdout"`` or ``"stderr"`` know that nobody reads: SIGPIPE."""
        self._job.close_output(stream)

    def resize(self, columns: int, rows: int) -> None:
        """Tell the command's terminal its size."""
        self._job.resize((columns, rows))

    def offer(self, data: bytes) -> int:
        """Give the command some input; returns how much of it was taken, without waiting."""
        return self._job.offer(data)

    def on_space(self, call: Callable[[], object]) -> None:
        """Have ``call``, which must not block, called when :meth:`offer` may take more."""
        self._job.on_space = call

    def write(self, data: bytes | str, timeout: float = 60.0) -> None:
        """Write to the standard input, if it was asked for.

        Returns when the guest has taken all but a window of it. A command that has ended drops what
        it did not read. Raises ``AgentTimeoutError``.
        """
        with self._waiting(timeout, "does not take its input") as deadline:
            self._job.send(data.encode() if isinstance(data, str) else data, deadline)

    def close_stdin(self) -> None:
        """Let the command read the end of its standard input."""
        if self._has_input:
            self._has_input = False
            self._job.end_input()

    def send_signal(self, signal: int) -> None:
        """Send a signal to the command and its process group."""
        self._job.kill(signal)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(SIGKILL)

    @property
    def returncode(self) -> int | None:
        """The status of a command that has ended, as in :class:`Result`; None before that."""
        return self._returncode(self._job.status) if self._job.status else None

    def wait(self, timeout: float = _FOREVER) -> int:
        """Wait for the end and return the status; output that nobody took is dropped.

        Raises ``AgentTimeoutError`` when the command still runs after ``timeout`` seconds, and
        ``CommandTimeoutError`` when its own time is over.
        """
        with self._waiting(timeout) as deadline:
            status = self._job.wait(deadline)
        self._check(status, b"", b"")
        return self._returncode(status)

    def communicate(
        self,
        input: bytes | str = b"",
        timeout: float = _FOREVER,
        *,
        text: bool = True,
        limit_bytes: int = LIMIT_BYTES,
    ) -> Result:
        """Write ``input`` and its end, take all output, and wait for the end.

        Raises ``CommandTimeoutError`` with the output so far, and ``OutputLimitError``; the
        command is killed by then.
        """
        output: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        data = input.encode() if isinstance(input, str) else input
        own = deadline_in(timeout)
        try:
            self._exchange(data, output, min(own, self._deadline), limit_bytes)
        except AgentTimeoutError as error:
            self._job.abandon()
            seconds = timeout if own < self._deadline else self._timeout or 0
            partial = _shown(output, text=text)
            raise CommandTimeoutError(self.args, seconds, *partial) from error
        except BaseException:
            self._job.abandon()
            raise
        status = self._job.final_status()
        stdout, stderr = _shown(output, text=text)
        self._check(status, stdout, stderr)
        self._check_applet(status, bytes(output["stderr"] or output["stdout"]))
        duration = time.monotonic() - self._started
        return Result(self.args, self._returncode(status), stdout, stderr, duration)

    def _exchange(
        self, data: bytes, output: dict[str, bytearray], deadline: float, limit_bytes: int
    ) -> None:
        rest = memoryview(data)
        while True:
            if not rest:
                self.close_stdin()
            rest, some, over = self._job.exchange(rest, deadline)
            if over:
                return
            if some:
                output[some.stream] += some.data
            if sum(map(len, output.values())) > limit_bytes:
                raise OutputLimitError(
                    f"guest: {self.args[0]}: more than {limit_bytes} bytes of output"
                )

    @contextmanager
    def _waiting(self, timeout: float, how: str = "still runs") -> Iterator[float]:
        """Give the deadline of a wait. Whatever ends that early kills the command.

        But for the caller's own timeout, whose error says ``how`` it is: the caller may wait again.
        """
        own = deadline_in(timeout)
        try:
            yield min(own, self._deadline)
        except AgentTimeoutError as error:
            if own < self._deadline:
                ran = time.monotonic() - self._started
                raise AgentTimeoutError(
                    f"guest: {shlex.join(self.args)}: {how} after {timeout:g} s"
                    f" (it began {ran:.3g} s ago)"
                ) from error
            self._job.abandon()
            raise CommandTimeoutError(self.args, self._timeout or 0, b"", b"") from error
        except BaseException:
            self._job.abandon()
            raise

    def _check(self, status: Status, stdout: str | bytes, stderr: str | bytes) -> None:
        if status.how == How.TIMED_OUT:
            if self._timeout is None:
                raise AgentProtocolError("agent: a command without a time is out of time")
            raise CommandTimeoutError(self.args, self._timeout or 0, stdout, stderr)
        if status.how == How.NOT_EXECUTED:
            raise guest_error(status.value, "execute", self.args[0])
        if status.how == How.NO_FOLDER:
            raise guest_error(status.value, "enter", self._folder or "")
        if status.how == How.FAILED:
            raise guest_error(status.value, "start", self.args[0])

    def _check_applet(self, status: Status, told: bytes) -> None:
        # The agent leaves a name that is not in PATH to BusyBox, which may not have it either.
        missing = f"{self.args[0]}: applet not found"
        if status == Status(How.EXITED, _NOT_FOUND) and told.strip() == os.fsencode(missing):
            raise guest_error(errno.ENOENT, "execute", self.args[0])

    def _returncode(self, status: Status) -> int:
        return status.value if status.how == How.EXITED else -status.value


def _shown(output: dict[str, bytearray], *, text: bool) -> tuple[str | bytes, str | bytes]:
    stdout, stderr = bytes(output["stdout"]), bytes(output["stderr"])
    if not text:
        return stdout, stderr
    return stdout.decode(errors="replace"), stderr.decode(errors="replace")
