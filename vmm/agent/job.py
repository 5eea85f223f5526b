"""One thing that the guest does for the host, a command or a file, and the bytes that go both ways.

Both directions are bounded: what the guest sends is kept until somebody takes it, up to the credit
that it was given; what is sent waits for the guest's space (:mod:`vmm.agent.protocol`).
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from vmm.agent import protocol
from vmm.agent.errors import AgentTimeoutError
from vmm.agent.protocol import Answer, Frame, ProtocolError, Ready, Request, Status

CREDIT_BYTES: Final = 256 << 10
_PIECE_BYTES: Final = 16 << 10
_UNLIMITED: Final = 1 << 30
_SIGKILL: Final = 9


class Output(NamedTuple):
    """Some bytes of a command's output; ``stream`` is ``"stdout"`` or ``"stderr"``."""

    stream: str
    data: bytes


class Step(NamedTuple):
    """What is still to be sent, what came, and whether the job is over and all of it was taken."""

    rest: memoryview
    output: Output | None
    over: bool


class Job:
    """The host's half of a job. ``lock`` is the link's, under which it calls take() and fail()."""

    def __init__(self, number: int, lock: threading.Lock, send: Callable[[bytes], None]) -> None:
        self.id = number
        self.status: Status | None = None
        self.ready: Ready | None = None
        self._send_frame = send
        self._changed = threading.Condition(lock)
        self._error: Exception | None = None
        self._output: deque[Output] = deque()
        self._credit = CREDIT_BYTES
        self._taken = 0
        self._space = protocol.WINDOW_BYTES
        self._abandoned = False

    def take(self, frame: Frame) -> bool:
        """Take a frame from the guest; return whether it was the last. Called with the lock held.

        Raises ``ProtocolError`` for more output than there is credit for.
        """
        if frame.kind in (Answer.OUTPUT, Answer.ERRORS):
            self._take_output(frame)
        elif frame.kind == Answer.CONSUMED:
            space = self._space + protocol.number(frame)
            self._space = min(space, protocol.WINDOW_BYTES)
        elif frame.kind == Answer.STATUS:
            self.status = protocol.status(frame)
        elif frame.kind == Answer.READY:
            self.ready = protocol.ready(frame)
        elif frame.kind == Answer.REFUSED:
            why = protocol.refusal(frame)
            self._error = ProtocolError(f"agent: the guest refused a request: {why}")
        self._changed.notify_all()
        return self._is_over()

    def fail(self, error: Exception) -> None:
        """Let everybody who waits for the job raise ``error``. Called with the lock held."""
        self._error = error
        self._changed.notify_all()

    def receive(self, deadline: float) -> Output | None:
        """Return the next output; None when all is there and the job is over."""
        return self.exchange(memoryview(b""), deadline).output

    def send(self, data: bytes, deadline: float) -> None:
        """Send input as the guest takes it; the rest is dropped when the job ends before that."""
        rest = memoryview(data)
        while rest:
            with self._changed:
                self._wait(lambda: self._is_over() or self._space > 0, deadline)
                self._raise_error()
                piece = self._next_piece(rest)
            self._send_piece(piece)
            rest = rest[len(piece) :] if piece else rest[:0]

    def exchange(self, rest: memoryview, deadline: float) -> Step:
        """Send some of ``rest`` or take some output, whatever is possible first.

        Raises ``AgentTimeoutError`` when nothing is possible until ``deadline``.
        """
        with self._changed:
            self._wait(
                lambda: self._is_over() or bool(self._output or (rest and self._space)), deadline
            )
            self._raise_error()
            output = self._output.popleft() if self._output else None
            piece = self._next_piece(rest)
            credit = self._returned_credit(output)
            over = self._is_over()
        self._send_piece(piece)
        if credit:
            self._send_frame(protocol.encode_number(self.id, Request.CREDIT, credit))
        return Step(rest[:0] if over else rest[len(piece) :], output, over and output is None)

    def end_input(self) -> None:
        """Say that no more input comes."""
        self._send_frame(protocol.encode(self.id, Request.END))

    def kill(self, signal: int = _SIGKILL) -> None:
        """Send a signal to the command's process group; ends the reading or writing of a file."""
        self._send_frame(protocol.encode_number(self.id, Request.KILL, signal))

    def wait(self, deadline: float) -> Status:
        """Wait for the end and drop the output that comes until then."""
        while self.receive(deadline):
            pass
        assert self.status
        return self.status

    def wait_ready(self, deadline: float) -> Ready:
        """Wait for the answer to HELLO."""
        with self._changed:
            self._wait(self._is_over, deadline)
            self._raise_error()
            assert self.ready
            return self.ready

    def abandon(self) -> None:
        """Have the job ended as nobody is interested any more; its output is dropped."""
        with self._changed:
            if self._abandoned or self._is_over():
                return
            self._abandoned = True
            self._output.clear()
            self._credit += _UNLIMITED
        self.kill()
        self._send_frame(protocol.encode_number(self.id, Request.CREDIT, _UNLIMITED))

    def _take_output(self, frame: Frame) -> None:
        self._credit -= len(frame.data)
        if self._credit < 0:
            raise ProtocolError("agent: the guest sent more output than it had credit for")
        if not self._abandoned:
            stream = "stdout" if frame.kind == Answer.OUTPUT else "stderr"
            self._output.append(Output(stream, frame.data))

    def _is_over(self) -> bool:
        return bool(self.status or self.ready or self._error)

    def _raise_error(self) -> None:
        if self._error:
            raise self._error

    def _wait(self, condition: Callable[[], bool], deadline: float) -> None:
        if not self._changed.wait_for(condition, max(0.0, deadline - time.monotonic())):
            raise AgentTimeoutError("agent: no answer in time")

    def _next_piece(self, rest: memoryview) -> memoryview:
        piece = rest[: 0 if self._is_over() else min(self._space, _PIECE_BYTES)]
        self._space -= len(piece)
        return piece

    def _send_piece(self, piece: memoryview) -> None:
        if piece:
            self._send_frame(protocol.encode(self.id, Request.DATA, bytes(piece)))

    def _returned_credit(self, output: Output | None) -> int:
        """Return how much credit to give for what was taken, 0 when that can wait."""
        self._taken += len(output.data) if output else 0
        if self._taken < CREDIT_BYTES // 2:
            return 0
        credit, self._taken = self._taken, 0
        self._credit += credit
        return credit
