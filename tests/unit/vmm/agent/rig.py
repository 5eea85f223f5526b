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

from vmm.agent import Agent


class PtyChannel:
    """A ``vmm.agent.Channel`` over the pseudo-terminal that ``link`` names."""

    def __init__(self, link: Path) -> None:
        self.on_data: Callable[[bytes], int | None] | None = None
        self.on_space: Callable[[], object] | None = None
        self.on_guest_open: Callable[[bool], object] | None = None
        self.guest_open = False
        self.most_per_send = 1 << 20
        self._link = link
        self._fd = -1
        self._full = False
        self._stop, self._stopper = os.pipe()
        self._reader: threading.Thread | None = None

    def open(self) -> None:
        self._fd, guest = os.openpty()
        tty.setraw(guest)
        os.set_blocking(self._fd, False)
        fresh = self._link.with_suffix(".new")
        fresh.symlink_to(os.ttyname(guest))
        fresh.rename(self._link)
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
        raise AssertionError("the client takes all data")

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
                self.on_data(data)
        os.close(guest)


@contextmanager
def running_agent(program: Path, folder: Path) -> Iterator[tuple[Agent, PtyChannel, int]]:
    """Run the agent; gives its client, the channel between them, and its process id."""
    channel = PtyChannel(folder / "port")
    agent = Agent(channel)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "BASE": "from the agent"}
    process = subprocess.Popen([program, folder / "port"], env=environment)
    try:
        agent.wait_ready(30)
        yield agent, channel, process.pid
    finally:
        process.kill()
        process.wait()
        channel.close()
