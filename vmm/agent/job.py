"""One thing that the guest does for the host, a command or a file, and the bytes that go both ways.

Both directions are bounded: the guest's output is kept until somebody takes it, up to the credit
that the guest has; input waits for the guest's space (:mod:`vmm.agent.protocol`). Every wait has a
deadline that holds whatever the guest sends meanwhile.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from virtio.named_tuple import NamedTuple
from vmm.agent import answers, protocol
from vmm.agent.answers import Ready, Status
from vmm.agent.errors import AgentProtocolError, AgentTimeoutError
from vmm.agent.output import STREAMS, Output, OutputBuffer
from vmm.agent.protocol import JOB_REQUESTS, Answer, Frame, How, Request

CREDIT_BYTES: Final = 256 << 10
_PIECE_BYTES: Final = 16 << 10
_UNLIMITED: Final = 1 << 30
_SIGKILL: Final = 9
_ANSWERS: Final = {
    Request.HELLO: {Answer.READY},
    Request.RUN: {Answer.OUTPUT, Answer.ERRORS, Answer.CONSUMED, Answer.STATUS},
    Request.READ: {Answer.OUTPUT, Answer.STATUS},
    Request.WRITE: {Answer.CONSUMED, Answer.STATUS},
    Request.REFRESH: {Answer.STATUS},
    Request.POWER: {Answer.STATUS},
    Request.LOG: {Answer.OUTPUT, Answer.STATUS},
}


class Step(NamedTuple):
    """The input that is still to be sent, some output, and whether job and output are over."""

    rest: memoryview
    output: Output | None
    over: bool


class Job:
    """The host's half of a job. ``lock`` is the link's, which holds it for take() and fail()."""

    def __init__(
        self, number: int, kind: Request, lock: threading.Lock, send: Callable[[bytes], None]
    ) -> None:
        self.id = number
        self.kind = kind
        self._began = time.monotonic()
        self.status: Status | None = None
        self.ready: Ready | None = None
        self._send_frame = send
        self._changed = threading.Condition(lock)
        self._error: Exception | None = None
        self._output = OutputBuffer()
        self._credit = dict.fromkeys(STREAMS, CREDIT_BYTES)
        self._taken = dict.fromkeys(STREAMS, 0)
        self._space = protocol.WINDOW_BYTES
        self._input_ended = False
        self._abandoned = False
        self.interruption: Exception | None = None
        self.on_space: Callable[[], object] | None = None
        """Called, with the lock held, when :meth:`offer` may take more, or never will."""

    def take(self, frame: Frame) -> bool:
        """Take a frame from the guest; return whether it was the last. Called with the lock held.

        Raises :class:`AgentProtocolError` for a frame that this job cannot have now.
        """
        if frame.kind == Answer.REFUSED:
            why = answers.refusal(frame)
            self._error = AgentProtocolError(f"agent: the guest refused a request: {why}")
        elif frame.kind not in _ANSWERS[self.kind]:
            raise AgentProtocolError(
                f"agent: a frame of kind {frame.kind:#x} in answer to {self.kind.name}"
            )
        elif frame.kind in (Answer.OUTPUT, Answer.ERRORS):
            self._take_output(frame)
        elif frame.kind == Answer.CONSUMED:
            self._take_space(answers.number(frame))
        elif frame.kind == Answer.STATUS:
            self._take_status(answers.status(frame))
        elif frame.kind == Answer.READY:
            self.ready = answers.ready(frame)
        self._changed.notify_all()
        if self.on_space is not None and (frame.kind == Answer.CONSUMED or self._is_over()):
            self.on_space()
        return self._is_over()

    def fail(self, error: Exception) -> None:
        """Let everybody who waits for the job raise ``error``. Called with the lock held."""
        self._error = error
        self._changed.notify_all()
        if self.on_space is not None:
            self.on_space()

    def interrupt(self, error: Exception | None) -> None:
        """Let who waits raise ``error`` as long as it is set. Called with the lock held."""
        self.interruption = error
        self._changed.notify_all()

    def receive(self, deadline: float) -> Output | None:
        """Return the next output; None when all is there and the job is over."""
        return self.exchange(memoryview(b""), deadline).output

    def send(self, data: bytes | memoryview, deadline: float) -> None:
        """Send input as the guest takes it; the rest is dropped when the job ends before that."""
        rest = memoryview(data)
        while rest:
            with self._changed:
                self._wait(lambda: self._space > 0, deadline)
                piece = self._next_piece(rest)
            self._send_piece(piece)
            rest = rest[len(piece) :] if piece else rest[:0]

    def exchange(self, rest: memoryview, deadline: float) -> Step:
        """Send some of ``rest`` or take some output, whatever is possible first.

        Raises :class:`AgentTimeoutError` for a job that goes on after ``deadline``, also when it
        has output.
        """
        with self._changed:
            self._wait(lambda: bool(self._output or (rest and self._space > 0)), deadline)
            output = self._output.take()
            piece = self._next_piece(rest)
            over = self._is_over()
        self._send_piece(piece)
        if output is not None:
            self.give_credit(output.stream, len(output.data))
        return Step(rest[:0] if over else rest[len(piece) :], output, over and output is None)

    def offer(self, data: bytes) -> int:
        """Send what the guest has space for and return its length; all of it is dropped at last.

        ``on_space`` is called when there is space again.
        """
        sent = 0
        while sent < len(data):
            with self._changed:
                if self._is_over():
                    return len(data)
                piece = self._next_piece(memoryview(data)[sent:])
            if not piece:
                break
            self._send_piece(piece)
            sent += len(piece)
        return sent

    def next_output(self, deadline: float) -> Output | None:
        """Return output as :meth:`receive`; the caller gives credit once it is passed on.

        What came before an error comes before it here.
        """
        with self._changed:
            if not self._output:
                self._wait(lambda: bool(self._output), deadline)
            return self._output.take()

    def give_credit(self, stream: str, count: int) -> None:
        """Let the guest send ``count`` bytes more of a stream; gathers them to half a window."""
        with self._changed:
            self._taken[stream] += count
            if self._taken[stream] < CREDIT_BYTES // 2:
                return
            credit, self._taken[stream] = self._taken[stream], 0
            self._credit[stream] += credit
        self._send_credit(stream, credit)

    def close_output(self, stream: str) -> None:
        """Say that nobody reads a stream any more: who writes to it learns that, by SIGPIPE."""
        errors = bytes([stream == "stderr"])
        self._send_frame(protocol.encode(self.id, Request.CLOSE, errors))

    def resize(self, size: tuple[int, int]) -> None:
        """Tell a command's terminal its size, in columns and rows."""
        self._send_frame(protocol.encode_size(self.id, size))

    def end_input(self) -> None:
        """Say that no more input comes."""
        with self._changed:
            self._input_ended = True
        self._send_frame(protocol.encode(self.id, Request.END))

    def kill(self, signal: int = _SIGKILL) -> None:
        """Send a signal to the command's process group; ends the reading or writing of a file."""
        self._send_frame(protocol.encode_number(self.id, Request.KILL, signal))

    def wait(self, deadline: float) -> Status:
        """Wait for the end and drop the output that comes until then."""
        while not self.exchange(memoryview(b""), deadline).over:
            pass
        return self.final_status()

    def wait_ready(self, deadline: float) -> Ready:
        """Wait for the answer to HELLO."""
        with self._changed:
            self._wait(lambda: False, deadline)
            if self.ready is None:
                raise AgentProtocolError(f"agent: READY does not answer {self.kind.name}")
            return self.ready

    def final_status(self) -> Status:
        """Return the status of a job that is over."""
        if self.status is None:
            raise AgentProtocolError(f"agent: STATUS does not answer {self.kind.name}")
        return self.status

    def abandon(self) -> None:
        """Have the job killed and its output dropped, as nobody waits for it any more."""
        with self._changed:
            if self._abandoned or self._is_over():
                return
            self._abandoned = True
            self._output.clear()
            for stream in STREAMS:
                self._credit[stream] += _UNLIMITED
        if self.kind in JOB_REQUESTS:
            self.kill()
            for stream in STREAMS:
                self._send_credit(stream, _UNLIMITED)

    def _take_output(self, frame: Frame) -> None:
        if not frame.data:
            raise AgentProtocolError("agent: a frame of output without any")
        stream = "stdout" if frame.kind == Answer.OUTPUT else "stderr"
        self._credit[stream] -= len(frame.data)
        if self._credit[stream] < 0:
            raise AgentProtocolError("agent: the guest sent more output than it had credit for")
        if not self._abandoned:
            self._output.add(stream, frame.data)

    def _take_space(self, count: int) -> None:
        self._space += count
        if count == 0 or self._space > protocol.WINDOW_BYTES:
            raise AgentProtocolError(f"agent: {count} bytes of input consumed that were not sent")

    def _take_status(self, status: Status) -> None:
        plain = status.how == How.FAILED or status == (How.EXITED, 0)
        if self.kind != Request.RUN and not plain:
            raise AgentProtocolError(f"agent: {self.kind.name} ended as only a command can")
        if self.kind == Request.WRITE and status.how == How.EXITED and not self._input_ended:
            raise AgentProtocolError("agent: a file is written before all of it was sent")
        self.status = status

    def _is_over(self) -> bool:
        return bool(self.status or self.ready or self._error)

    def _wait(self, condition: Callable[[], bool], deadline: float) -> None:
        """Wait for a condition or the job's end; raises for one that failed or is out of time."""
        left = max(0.0, deadline - time.monotonic())
        self._changed.wait_for(
            lambda: self._is_over() or bool(self.interruption) or condition(), left
        )
        if self._error:
            raise self._error.with_traceback(None)
        if self.interruption is not None and not self._is_over() and not condition():
            raise self.interruption.with_traceback(None)
        if not self._is_over() and (not condition() or time.monotonic() >= deadline):
            waited = time.monotonic() - self._began
            raise AgentTimeoutError(f"agent: no answer to {self.kind.name} ({waited:.3g} s so far)")

    def _next_piece(self, rest: memoryview) -> memoryview:
        piece = rest[: 0 if self._is_over() else min(self._space, _PIECE_BYTES)]
        self._space -= len(piece)
        return piece

    def _send_piece(self, piece: memoryview) -> None:
        if piece:
            self._send_frame(protocol.encode(self.id, Request.DATA, bytes(piece)))

    def _send_credit(self, stream: str, count: int) -> None:
        errors = stream == "stderr"
        self._send_frame(protocol.encode_credit(self.id, count, errors=errors))
