"""Keeping the agent of a restored guest up to date."""

import threading
from collections.abc import Callable

import pytest

from vmm.agent import AgentLostError, AgentTimeoutError
from vmm.agent.upkeep import AgentUpkeep


class SilentGuest:
    """A port to a guest that never opens its end."""

    def __init__(self) -> None:
        self.on_data: Callable[[bytes], int | None] | None = None
        self.on_space: Callable[[], object] | None = None
        self.on_guest_open: Callable[[bool], object] | None = None
        self.guest_open = False
        self.opened = threading.Semaphore(0)

    def send(self, data: bytes) -> int:
        raise AssertionError("the client sends nothing to an agent that is not there")

    def open(self) -> None:
        self.opened.release()

    def close(self) -> None:
        pass

    def resume(self) -> None:
        raise AssertionError("the client takes all data")


class BrokenGuest(SilentGuest):
    """A port that fails when it is opened again."""

    def open(self) -> None:
        if self.opened.acquire(blocking=False):
            raise AgentLostError("agent: broken")
        super().open()


def test_a_machine_that_ends_before_its_guest_is_up_to_date_is_no_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guest = SilentGuest()
    upkeep = AgentUpkeep(guest)
    upkeep.start(restored=True)
    for _ in range(2):  # the second opening is that of the refresh, which then waits for the agent
        guest.opened.acquire()

    upkeep.end("it was stopped")
    upkeep.join()

    assert caplog.messages == []
    with pytest.raises(AgentLostError, match="the machine has ended: it was stopped"):
        upkeep.agent.ping()


def test_a_guest_that_is_not_brought_up_to_date_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    upkeep = AgentUpkeep(BrokenGuest())
    upkeep.start(restored=True)
    upkeep.join()

    assert caplog.messages == ["the guest has its old clock and random numbers: agent: broken"]


def test_an_agent_that_does_not_come_is_told_of_with_what_the_guest_printed() -> None:
    upkeep = AgentUpkeep(SilentGuest(), lambda: "; the last lines were:\n    init: no such port")

    with pytest.raises(AgentTimeoutError) as caught:
        upkeep.agent.wait_ready(0)

    assert str(caught.value).splitlines() == [
        "agent: the agent is not ready (waited 0 s); the last lines were:",
        "    init: no such port",
    ]
