"""Fuzz the host's side of the agent's protocol with what an agent may send, and a host may want.

Input: 48 steps of 4 bytes (operation, job, two numbers), then a text from which frames and raw
bytes take their data. After each step: what is kept of the guest's output is at most its credit,
jobs are at most their places, every error is one of the agent's, and nobody waits.
"""

import struct
from collections.abc import Callable
from itertools import islice
from typing import Final

from tests.fuzz.targets import assert_one_line
from vmm.agent import Agent, AgentLostError, AgentProtocolError, AgentTimeoutError
from vmm.agent.errors import CommandTimeoutError, GuestOSError, OutputLimitError
from vmm.agent.process import Process

STEP = struct.Struct("<BBBB")
STEPS_MAX: Final = 48
SCRIPT_END: Final = STEPS_MAX * STEP.size
FRAME, RAW, BEGIN, CLOSE, START, ABANDON, TAKE, WAIT, ASK, RESET, FLOOD = range(11)
CREDIT_BYTES: Final = 256 << 10

READY: Final = struct.pack("<8sII", b"vmmagent", 2, 42) + b"6.1"
EXPECTED: Final = (
    *(AgentLostError, AgentProtocolError, AgentTimeoutError),
    *(CommandTimeoutError, GuestOSError, OutputLimitError),
)


def frame(job: int, kind: int, data: bytes) -> bytes:
    """Return a frame from the guest."""
    return struct.pack("<IIB", len(data) + 5, job, kind) + data


class Guest:
    """The port, whose other end the input plays; it takes all that the host sends."""

    def __init__(self) -> None:
        self.on_data: Callable[[bytes], int | None] | None = None
        self.on_space: Callable[[], object] | None = None
        self.on_guest_open: Callable[[bool], object] | None = None
        self.guest_open = True
        self.is_open = False

    def send(self, data: bytes) -> int:
        """Take all."""
        return len(data)

    def open(self) -> None:
        """Note that the host's end is open."""
        self.is_open = True

    def close(self) -> None:
        """Close the guest's end as well: the agent notices at once."""
        self.is_open = False
        self.close_guest()

    def resume(self) -> None:
        """Do nothing: what was not taken is offered again in any case."""

    def close_guest(self) -> None:
        """Close the guest's end, as an agent that ended does."""
        self.guest_open = False
        assert self.on_guest_open
        self.on_guest_open(False)

    def give(self, data: bytes) -> None:
        """Have the host take all of ``data``, a bounded number of frames at a time."""
        if not self.is_open:
            return
        self.guest_open = True
        while data:
            assert self.on_data
            taken = self.on_data(data)
            assert taken is None or 0 < taken <= len(data), "bytes were taken twice, or never"
            data = data[len(data) if taken is None else taken :]


class Conversation:
    """An agent of the host's, the guest, and the commands that were started."""

    def __init__(self, text: bytes) -> None:
        self.guest = Guest()
        self.agent = Agent(self.guest)
        self.processes: list[Process] = []
        self._text = text
        self.guest.give(frame(0, 0x81, READY))

    def step(self, operation: int, job: int, a: int, b: int) -> None:
        """Do one step, and check what it left."""
        try:
            self._do(operation % 11, job, a, b)
        except EXPECTED as error:
            assert_one_line(error)
        self._check()

    def _do(self, operation: int, job: int, a: int, b: int) -> None:
        at = a * 4
        if operation == FRAME:
            self.guest.give(frame(job, 0x80 | a & 7, self._text[b : b + (a >> 3)]))
        elif operation == RAW:
            self.guest.give(self._text[at : at + b])
        elif operation == BEGIN:
            self.guest.give(frame(0, 0x81, READY))
        elif operation == CLOSE:
            self.guest.close_guest()
        elif operation == START and self._would_start():
            self.processes.append(self.agent.start(["x"], stdin=True, timeout=b & 1 or None))
        elif operation == ASK:
            self._ask(b)
        elif operation == RESET:
            self.agent.reset(0)
        elif operation == FLOOD:
            self.guest.give(frame(job, 0x82 + (a & 1), self._text[: 1 + b]) * 260)
        elif self.processes:
            self._use(operation, self.processes[job % len(self.processes)], b)

    def _would_start(self) -> bool:
        """Return whether a command starts at once, rather than after a wait."""
        link = self.agent._link
        return link._ready is not None and len(link._jobs) < 16

    def _use(self, operation: int, process: Process, b: int) -> None:
        if operation == ABANDON:
            process.__exit__()
        elif operation == TAKE and (len(process._job._output) or process.returncode is not None):
            assert all(output.data for output in islice(process, 1)), "output without any"
        elif operation == WAIT and b & 1:
            assert -64 <= process.wait(0) <= 255
        elif operation == WAIT:
            process.communicate(b"input", 0, limit_bytes=1000)

    def _ask(self, which: int) -> None:
        questions: tuple[Callable[[], object], ...] = (
            lambda: self.agent.ping(0),
            lambda: self.agent.read_file("/x", 0),
            lambda: self.agent.write_file("/x", b"data", timeout=0),
            lambda: self.agent.refresh(b"", 1, 0),
            lambda: self.agent.wait_ready(0),
        )
        questions[which % len(questions)]()

    def _check(self) -> None:
        jobs = list(self.agent._link._jobs.values())
        assert len(jobs) <= 16 + 64, "too many jobs"
        for job in jobs:
            assert len(job._output) <= 2 * CREDIT_BYTES, "more output is kept than there is credit"
        assert len(self.agent._link._decoder._buffer) <= 4 + (64 << 10), "too much of a frame"


def one_input(data: bytes) -> None:
    """Run one input."""
    conversation = Conversation(data[SCRIPT_END:])
    script = data[:SCRIPT_END]
    for step in STEP.iter_unpack(script[: len(script) // STEP.size * STEP.size]):
        conversation.step(*step)
