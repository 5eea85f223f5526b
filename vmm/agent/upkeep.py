"""Keeps the agent of one machine in step with it: after a restore, and at the machine's end.

A restored guest has the clock and the random numbers of the moment when it was saved, and its agent
is in the middle of a conversation with a host that is not there. So before anybody else speaks with
the agent it begins anew, and gets the time of day and fresh randomness. The guest's monotonic clock
goes on where it was: nothing in the guest times out because it was saved for a day.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Final

from virtio.errors import Error
from virtio.log import Logger
from vmm.agent import Agent, AgentLostError
from vmm.agent.link import AgentPort

SEED_BYTES: Final = 64

_log = Logger(__name__)


class AgentUpkeep:
    """Looks after ``agent``; ``wait_ended`` returns what ended the machine, once it has ended.

    What is asked of the agent of a restored guest waits, each with its own deadline, until the
    guest is up to date.
    """

    def __init__(self, port: AgentPort, wait_ended: Callable[[], str]) -> None:
        self.agent = Agent(port)
        self._wait_ended = wait_ended
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, *, restored: bool) -> None:
        """Begin; the machine runs."""
        self._run(self._see_end, "machine-end")
        if restored:
            self.agent.hold()
            self._run(self._renew, "guest-refresh")

    def join(self) -> None:
        """Wait until all is done; the machine has ended."""
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _see_end(self) -> None:
        message = self._wait_ended()
        self._ended.set()
        self.agent.fail(AgentLostError(f"agent: the machine has ended: {message}"))

    def _renew(self) -> None:
        try:
            self.agent.renew(os.urandom(SEED_BYTES), time.time_ns())
        except Error as error:
            if not self._ended.is_set():
                _log.warning("the guest has its old clock and random numbers: %s", error)
