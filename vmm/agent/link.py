"""The host's end of the agent's port: carries frames between the guest and the jobs."""

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from virtio.log import Logger
from virtio.rate import TokenBucket
from vmm.agent import answers, protocol
from vmm.agent.answers import Decoder, Ready
from vmm.agent.errors import AgentLostError, AgentProtocolError, AgentTimeoutError
from vmm.agent.job import Job
from vmm.agent.outbox import Outbox
from vmm.agent.protocol import JOB_REQUESTS, Answer, Frame, Request

_MOST_IDS: Final = 0xFFFFFFFF
_MOST_QUESTIONS: Final = 64

_log = Logger(__name__)


class AgentPort(Protocol):
    """The part of a console port that the agent needs: a byte stream whose two ends open and close.

    ``send`` returns how many bytes it took and never blocks; ``on_space`` is called when it may
    take more again. ``on_data`` returns how many bytes it took, None for all; the rest comes again
    after :meth:`resume`. The callbacks come on one thread.
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
    """Carries frames for any number of threads; no lock is held while the port is called.

    The guest's agent *serves* from its READY on, until it or the host closes its end of the port.
    An agent that breaks the protocol is not listened to any more until then. What a guest can have
    the host do is bounded: frames at a time by the decoder, bytes kept by credit, jobs by their
    places, warnings by the second.
    """

    def __init__(self, port: AgentPort, told: Callable[[], str] = lambda: "") -> None:
        """``told`` returns what the guest printed last, for errors; called with a lock held."""
        self._port = port
        self._told = told
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._resetting = threading.Lock()
        self._outbox = Outbox(port.send)
        self._decoder = Decoder()
        self._jobs: dict[int, Job] = {}
        self._last_id = 0
        self._ready: Ready | None = None
        self._held = False
        self._failure: Exception | None = None
        self._breach: AgentProtocolError | None = None
        self._interruption: Exception | None = None
        self._warnings = TokenBucket(1, 10)
        self._deaf = False
        self._closings = 0
        self._open_when_noticed = False
        self.on_step: Callable[[str, int, str], object] = _nobody  # with the lock held
        port.on_data = self._take
        port.on_space = self._outbox.pump
        port.on_guest_open = self._guest_opened
        port.open()

    def wait_ready(self, deadline: float) -> Ready:
        """Return what the agent says of itself as soon as it serves everybody."""
        with self._changed:
            return self._wait_serving(deadline, first=False)

    def begin(
        self, kind: Request, data: bytes, deadline: float, *, first: bool = False, what: str = ""
    ) -> Job:
        """Send a request under a new id; waits for the agent, and for one of its 16 places.

        With ``first`` also while the agent is held (:meth:`hold`). ``what`` is for who watches.
        """
        with self._changed:
            self._wait_serving(deadline, first=first)
            self._wait(
                lambda: self._serves(first) and self._has_place(kind), deadline, "the agent is busy"
            )
            self._last_id = self._last_id % _MOST_IDS + 1
            frame = protocol.encode(self._last_id, kind, data)
            job = Job(self._last_id, kind, self._lock, self.send)
            job.interruption = self._interruption
            self._jobs[job.id] = job
            self._outbox.add(frame)
            self.on_step(kind.name.lower(), job.id, what)
        try:
            self._outbox.pump()
        except BaseException:
            job.abandon()
            raise
        return job

    def send(self, frame: bytes) -> None:
        """Have a frame sent; dropped when no agent serves."""
        with self._lock:
            if self._ready is None or self._failure:
                return
            self._outbox.add(frame)
        self._outbox.pump()

    def hold(self) -> None:
        """Have requests wait from now on, but for those that come ``first``."""
        with self._lock:
            self._held = True

    def release(self) -> None:
        """Let all requests through again."""
        with self._lock:
            self._held = False
            self._changed.notify_all()

    def reset(self, deadline: float) -> Ready:
        """Close and open the host's end, which makes the agent begin anew; wait until it has."""
        if not self._resetting.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise AgentTimeoutError("agent: another reset is under way")
        try:
            self._close_port(deadline)
            self._port.open()
            with self._changed:
                return self._wait_serving(deadline, first=True)
        finally:
            self._resetting.release()

    def wait_failed(self, deadline: float) -> None:
        """Wait until :meth:`fail` was called; raises :class:`AgentTimeoutError`."""
        with self._changed:
            timeout = max(0.0, deadline - time.monotonic())
            if not self._changed.wait_for(lambda: self._failure is not None, timeout):
                raise AgentTimeoutError(f"agent: the machine goes on (waited {timeout:.3g} s)")

    def fail(self, error: Exception) -> None:
        """Let all calls, those that wait and later ones, raise ``error``."""
        with self._lock:
            self._failure = self._failure or error
            self._lose(error)

    def interrupt(self, error: Exception | None) -> None:
        """Let calls that would wait raise ``error``, those that wait included; None ends that."""
        with self._lock:
            self._interruption = error
            for job in self._jobs.values():
                job.interrupt(error)
            self._changed.notify_all()

    def _close_port(self, deadline: float) -> None:
        """Close the host's end, and wait until the guest has closed its own.

        A guest that does not notice in time finds the port open again when it does.
        """
        with self._lock:
            self._deaf, self._breach = True, None
            self._lose(AgentLostError("agent: was reset"))
        # Bytes of the old conversation must not come into the new one.
        if not self._outbox.wait_idle(deadline):
            raise AgentTimeoutError("agent: the port does not take data")
        with self._lock:
            closings = self._closings
        was_open = self._port.guest_open
        self._port.close()
        with self._changed:
            try:
                self._wait(
                    lambda: not was_open or self._closings != closings,
                    deadline,
                    "the agent did not notice that the port was closed",
                )
            except BaseException:
                self._open_when_noticed = True
                raise
            self._start_over()

    def _serves(self, first: bool) -> bool:
        return self._ready is not None and (first or not self._held)

    def _has_place(self, kind: Request) -> bool:
        lasts = kind in JOB_REQUESTS
        same = sum((job.kind in JOB_REQUESTS) == lasts for job in self._jobs.values())
        return same < (protocol.JOBS if lasts else _MOST_QUESTIONS)

    def _wait_serving(self, deadline: float, *, first: bool) -> Ready:
        self._wait(lambda: self._serves(first), deadline, "the agent is not ready")
        assert self._ready is not None
        return self._ready

    def _wait(self, condition: Callable[[], bool], deadline: float, what: str) -> None:
        """Wait with the lock held; raises at the machine's end, for a breach, and at last."""
        timeout = max(0.0, deadline - time.monotonic())
        ended = self._changed.wait_for(
            lambda: self._failure or self._breach or self._interruption or condition(), timeout
        )
        if (error := self._failure or self._breach) is not None:
            raise error.with_traceback(None)
        if self._interruption is not None and not condition():
            raise self._interruption.with_traceback(None)
        if not ended:
            raise AgentTimeoutError(f"agent: {what} (waited {timeout:.3g} s){self._told()}")

    def _lose(self, error: Exception) -> None:
        """Fail what is running; nothing is sent until an agent serves again."""
        for job in self._jobs.values():
            job.fail(error)
        self._jobs.clear()
        self._outbox.clear()
        self._ready = None
        self._changed.notify_all()

    def _start_over(self) -> None:
        """Listen for an agent that begins: the one before has closed its end."""
        self._decoder = Decoder()
        self._breach = None
        self._deaf = False

    def _take(self, data: bytes) -> int:
        with self._lock:
            if self._deaf or self._failure or self._breach:
                return len(data)
            try:
                frames, taken = self._decoder.feed(data)
                for frame in frames:
                    self._dispatch(frame)
            except AgentProtocolError as error:
                self._breach = error
                self._decoder = Decoder()
                self._lose(error)
                if self._warnings.take(1):
                    _log.warning("%s", error)
                return len(data)
        if taken < len(data):
            self._port.resume()  # others are served before it comes again
        return taken

    def _dispatch(self, frame: Frame) -> None:
        if frame.kind == Answer.READY and frame.id == 0:
            ready = answers.ready(frame)
            self._lose(AgentLostError("agent: began anew"))
            self._ready = ready
            self.on_step("ready", 0, "")
            return
        job = self._jobs.get(frame.id)
        if job is None:
            raise AgentProtocolError(f"agent: a frame of kind {frame.kind:#x} for no job")
        if job.take(frame):
            del self._jobs[frame.id]
            self._changed.notify_all()
            self.on_step("done", frame.id, "")

    def _guest_opened(self, is_open: bool) -> None:
        if is_open:
            return
        with self._lock:
            self._closings += 1
            self._lose(AgentLostError("agent: the guest closed the port"))
            open_now, self._open_when_noticed = self._open_when_noticed, False
            if open_now or not self._deaf:
                self._start_over()
            self._changed.notify_all()
        if open_now:
            self._port.open()


def _nobody(step: str, number: int, what: str) -> None:
    """Nobody watches."""
