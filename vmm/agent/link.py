"""The host's end of the agent's port: what goes out, what comes in, and who it is for."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from vmm.agent import protocol
from vmm.agent.errors import AgentLostError, AgentTimeoutError
from vmm.agent.job import Job
from vmm.agent.protocol import Answer, Decoder, Frame, ProtocolError, Ready, Request

_SENT_BYTES: Final = 64 << 10
_MOST_IDS: Final = 0xFFFFFFFF

_log = logging.getLogger(__name__)


class Channel(Protocol):
    """What is needed of a console port: a byte stream whose two ends open and close.

    ``send`` returns how many bytes were taken and never blocks; ``on_space`` is called when it
    may take more again. ``on_data`` returns how many bytes it took, None for all. The callbacks
    come on one thread.
    """

    on_data: Callable[[bytes], int | None] | None
    on_space: Callable[[], object] | None
    on_guest_open: Callable[[bool], object] | None

    @property
    def guest_open(self) -> bool:
        """Whether the guest has its end open."""

    def send(self, data: bytes) -> int:
        """Take some of ``data``."""

    def open(self) -> None:
        """Open the host's end."""

    def close(self) -> None:
        """Close the host's end; the guest sees that."""

    def resume(self) -> None:
        """Go on after ``on_data`` took less than all."""


class Link:
    """Carries frames for any number of threads; no lock is held while the channel is called."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._resetting = threading.Lock()
        self._ready: Ready | None = None
        self._failure: Exception | None = None
        self._deaf = False
        self._closings = 0
        self._decoder = Decoder()
        self._jobs: dict[int, Job] = {}
        self._counted: set[int] = set()
        self._last_id = 0
        self._outgoing = bytearray()
        self._sending = False
        self._send_again = False
        channel.on_data = self._take
        channel.on_space = self._pump
        channel.on_guest_open = self._guest_opened
        channel.open()

    def wait_ready(self, deadline: float) -> Ready:
        """Return what the agent says of itself as soon as it is there."""
        with self._changed:
            self._wait(lambda: self._ready is not None, deadline, "the agent is not ready")
            assert self._ready
            return self._ready

    def begin(self, kind: Request, data: bytes, deadline: float, *, counted: bool = True) -> Job:
        """Send a request under a new id; waits for the agent, and for one of its 16 places."""
        with self._changed:
            self._wait(
                lambda: (
                    self._ready is not None
                    and not (counted and len(self._counted) >= protocol.JOBS)
                ),
                deadline,
                "the agent is not ready or busy",
            )
            self._last_id = self._last_id % _MOST_IDS + 1
            frame = protocol.encode(self._last_id, kind, data)
            job = Job(self._last_id, self._lock, self.send)
            self._jobs[job.id] = job
            if counted:
                self._counted.add(job.id)
            self._outgoing += frame
        self._pump()
        return job

    def send(self, frame: bytes) -> None:
        """Have a frame sent; dropped when there is no agent."""
        with self._lock:
            if self._ready is None or self._failure:
                return
            self._outgoing += frame
        self._pump()

    def reset(self, deadline: float) -> Ready:
        """Close and open the host's end, which makes the agent begin anew; wait until it has."""
        with self._resetting:
            self._channel_close(deadline)
            self._channel.open()
            return self.wait_ready(deadline)

    def wait_failed(self, deadline: float) -> None:
        """Wait until :meth:`fail` was called; raises ``AgentTimeoutError``."""
        with self._changed:
            timeout = max(0.0, deadline - time.monotonic())
            if not self._changed.wait_for(lambda: self._failure is not None, timeout):
                raise AgentTimeoutError(f"agent: the machine goes on (waited {timeout:.3g} s)")

    def fail(self, error: Exception) -> None:
        """Let all calls, those that wait and later ones, raise ``error``."""
        with self._lock:
            self._failure = self._failure or error
            self._lose(error)

    def _channel_close(self, deadline: float) -> None:
        with self._changed:
            self._deaf = True
            self._lose(AgentLostError("agent: was reset"))
            # Bytes of the old conversation must not come into the new one.
            self._wait(lambda: not self._sending, deadline, "the port does not take data")
            closings = self._closings
        was_open = self._channel.guest_open
        self._channel.close()
        try:
            with self._changed:
                self._wait(
                    lambda: not was_open or self._closings != closings,
                    deadline,
                    "the agent did not notice that the port was closed",
                )
        finally:
            with self._lock:
                self._decoder = Decoder()
                self._deaf = False

    def _wait(self, condition: Callable[[], bool], deadline: float, what: str) -> None:
        """Wait with the lock held; raises when the time is over or the machine ended."""
        timeout = max(0.0, deadline - time.monotonic())
        done = self._changed.wait_for(lambda: self._failure or condition(), timeout)
        if self._failure:
            raise self._failure
        if not done:
            raise AgentTimeoutError(f"agent: {what} (waited {timeout:.3g} s)")

    def _lose(self, error: Exception) -> None:
        """Fail what is running; nothing is sent until there is an agent again."""
        for job in self._jobs.values():
            job.fail(error)
        self._jobs.clear()
        self._counted.clear()
        self._outgoing.clear()
        self._ready = None
        self._changed.notify_all()

    def _take(self, data: bytes) -> None:
        with self._lock:
            if self._deaf or self._failure:
                return
            try:
                for frame in self._decoder.feed(data):
                    self._dispatch(frame)
            except ProtocolError as error:
                _log.warning("%s", error)
                self._lose(error)
                self._decoder = Decoder()

    def _dispatch(self, frame: Frame) -> None:
        if frame.kind == Answer.READY and frame.id == 0:
            ready = protocol.ready(frame)
            self._lose(AgentLostError("agent: began anew"))
            self._ready = ready
        elif (job := self._jobs.get(frame.id)) and job.take(frame):
            del self._jobs[frame.id]
            self._counted.discard(frame.id)
            self._changed.notify_all()

    def _guest_opened(self, is_open: bool) -> None:
        if is_open:
            return
        with self._lock:
            self._closings += 1
            self._lose(AgentLostError("agent: the guest closed the port"))
            self._decoder = Decoder()

    def _pump(self) -> None:
        """Give the channel what it takes. One thread does, for all others who come meanwhile."""
        while data := self._next_data():
            taken = 0
            try:
                taken = self._channel.send(data)
            finally:
                going_on = self._sent(taken, taken == len(data))
            if not going_on:
                return

    def _next_data(self) -> bytes:
        with self._lock:
            self._send_again = self._sending
            if self._sending or not self._outgoing:
                return b""
            self._sending = True
            return bytes(self._outgoing[:_SENT_BYTES])

    def _sent(self, count: int, all_taken: bool) -> bool:
        with self._lock:
            self._sending = False
            del self._outgoing[:count]
            self._changed.notify_all()
            return all_taken or self._send_again
