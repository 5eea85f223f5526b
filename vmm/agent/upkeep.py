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
from vmm.host.threads import start_thread

SEED_BYTES: Final = 64

_log = Logger(__name__)


class AgentUpkeep:
    """Looks after ``agent``; ``told`` returns what the guest printed last, for errors.

    What is asked of the agent of a restored guest waits, each with its own deadline, until the
    guest is up to date.
    """

    def __init__(self, port: AgentPort, told: Callable[[], str] = lambda: "") -> None:
        self.agent = Agent(port, told)
        self._ended = False
        self._thread = threading.Thread(target=self._renew, name="guest-refresh", daemon=True)

    def start(self, *, restored: bool) -> None:
        """Begin; the machine runs."""
        if restored:
            self.agent.hold()
            start_thread(self._thread)

    def end(self, message: str) -> None:
        """Let all calls fail, as the machine has ended; harmless the second time."""
        self._ended = True
        self.agent.fail(AgentLostError(f"agent: the machine has ended: {message}"))

    def join(self) -> None:
        """Wait until all is done; the machine has ended."""
        if self._thread.ident is not None:
            self._thread.join()

    def _renew(self) -> None:
        try:
            self.agent.renew(os.urandom(SEED_BYTES), time.time_ns())
        except Error as error:
            if not self._ended:
                _log.warning("the guest has its old clock and random numbers: %s", error)
