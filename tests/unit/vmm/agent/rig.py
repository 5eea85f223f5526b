"""The real agent on this host: its program at one end of a pseudo-terminal, we at the other one.

A pseudo-terminal has no end to close and open again, so each opening makes a new one, behind a
link whose name the agent knows: that a port goes away and comes back looks the same to it.
"""

import os
import select
import subprocess
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from vmm.agent import Agent
from vmm.agent.answers import Decoder
from vmm.agent.protocol import Frame


class PtyPort:
    """A ``vmm.agent.AgentPort`` over the pseudo-terminal that ``link`` names."""

    def __init__(self, link: Path) -> None:
        self.on_data: Callable[[bytes], int | None] | None = None
        self.on_space: Callable[[], object] | None = None
        self.on_guest_open: Callable[[bool], object] | None = None
        self.guest_open = False
        self.most_per_send = 1 << 20
        self.link = link
        self._fd = -1
        self._full = False
        self._stop, self._stopper = os.pipe()
        self._reader: threading.Thread | None = None

    def open(self) -> None:
        self._fd, guest = os.openpty()
        tty.setraw(guest)
        os.set_blocking(self._fd, False)
        fresh = self.link.with_suffix(".new")
        fresh.symlink_to(os.ttyname(guest))
        fresh.rename(self.link)
        self._stop, self._stopper = os.pipe()
        self._reader = threading.Thread(target=self._read, args=(guest,), daemon=True)
        self._reader.start()

    def close(self) -> None:
        os.close(self._stopper)
        assert self._reader
        self._reader.join()
        os.close(self._stop)
        os.close(self._fd)
        self._set_guest_open(False)

    def resume(self) -> None:
        pass  # what on_data left comes again in any case

    def send(self, data: bytes) -> int:
        try:
            taken = os.write(self._fd, data[: self.most_per_send])
        except BlockingIOError:
            taken = 0
        self._full = taken < len(data)
        return taken

    def _set_guest_open(self, is_open: bool) -> None:
        self.guest_open = is_open
        assert self.on_guest_open
        self.on_guest_open(is_open)

    def _read(self, guest: int) -> None:
        assert self.on_data
        assert self.on_space
        poll = select.poll()
        poll.register(self._stop, 0)
        while True:
            poll.register(self._fd, select.POLLIN | (select.POLLOUT if self._full else 0))
            events = dict(poll.poll(20))
            if self._stop in events:
                break
            if events.get(self._fd, 0) & select.POLLOUT:
                self._full = False
                self.on_space()
            if events.get(self._fd, 0) & select.POLLIN:
                data = os.read(self._fd, 65536)
                if not self.guest_open:
                    self._set_guest_open(True)
                while data:
                    taken = self.on_data(data)
                    data = data[len(data) if taken is None else taken :]
        os.close(guest)


@contextmanager
def running_agent(program: Path, folder: Path) -> Iterator[tuple[Agent, PtyPort, int]]:
    """Run the agent; gives its client, the port between them, and its process id."""
    port = PtyPort(folder / "port")
    agent = Agent(port)
    with running_program(program, port) as process:
        agent.wait_ready(30)
        yield agent, port, process


@contextmanager
def running_program(program: Path, port: PtyPort) -> Iterator[int]:
    """Run the agent at the other end of a port that is open; gives its process id."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "BASE": "from the agent"}
    process = subprocess.Popen([program, port.link], env=environment)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
        port.close()


class RawHost:
    """A host that may break the protocol: sends any bytes, and gives the frames that come."""

    def __init__(self, port: PtyPort) -> None:
        self._port = port
        self._decoder = Decoder()
        self._frames: SimpleQueue[Frame] = SimpleQueue()
        port.on_data = self._take
        port.on_space = lambda: None
        port.on_guest_open = lambda is_open: None
        port.open()

    def send(self, data: bytes) -> None:
        """Send all of ``data``."""
        while data:
            data = data[self._port.send(data) :]

    def wait_for(self, job: int, kind: int) -> bytes:
        """Pass over frames until one of that job and kind; returns its data."""
        while (frame := self._frames.get(timeout=30))[:2] != (job, kind):
            pass
        return frame.data

    def _take(self, data: bytes) -> int:
        frames, taken = self._decoder.feed(data)
        for frame in frames:
            self._frames.put(frame)
        return taken
