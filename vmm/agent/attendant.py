"""Keeps a machine and the agent in its guest in step: after a restore, and at the machine's end.

A restored guest has the clock and the random numbers of the moment it was saved, and its agent is
in the middle of a conversation with a host that is not there. So before anybody else speaks with it
the agent begins anew, and is given the time of day and fresh randomness. The guest's monotonic
clock goes on where it was: nothing in the guest times out because it was saved for a day.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from virtio.errors import Error
from vmm.agent import Agent, AgentLostError
from vmm.agent.link import Channel

SEED_BYTES: Final = 64

logger = logging.getLogger(__name__)


class Attendant:
    """The agent of one machine; ``wait_ended`` returns what ended it, once that has happened."""

    def __init__(self, channel: Channel, wait_ended: Callable[[], str]) -> None:
        self._agent = Agent(channel)
        self._wait_ended = wait_ended
        self._current = threading.Event()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def agent(self) -> Agent:
        """The agent; of a restored guest, as soon as what is asked of it finds it up to date."""
        self._current.wait()
        return self._agent

    def start(self, *, restored: bool) -> None:
        """Attend to the agent from now on; the machine runs."""
        self._run(self._see_end, "machine-end")
        if restored:
            self._run(self._refresh, "guest-refresh")
        else:
            self._current.set()

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
        self._agent.fail(AgentLostError(f"agent: the machine has ended: {message}"))

    def _refresh(self) -> None:
        try:
            self._agent.reset()
            wait = self._agent.begin_refresh(os.urandom(SEED_BYTES), time.time_ns())
            self._current.set()  # what others ask for comes behind it
            wait()
        except Error as error:
            if not self._ended.is_set():
                logger.warning("the guest has its old clock and random numbers: %s", error)
        finally:
            self._current.set()
