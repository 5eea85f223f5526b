"""Keeping the agent of a restored guest up to date."""

import threading
from collections.abc import Callable

import pytest

from vmm.agent import AgentLostError
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


class Ending:
    """What a machine says when it ends."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def wait(self) -> str:
        self.event.wait()
        return "it was stopped"


def test_a_machine_that_ends_before_its_guest_is_up_to_date_is_no_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guest, ending = SilentGuest(), Ending()
    upkeep = AgentUpkeep(guest, ending.wait)
    upkeep.start(restored=True)
    for _ in range(2):  # the second opening is that of the refresh, which then waits for the agent
        guest.opened.acquire()

    ending.event.set()
    upkeep.join()

    assert caplog.messages == []
    with pytest.raises(AgentLostError, match="the machine has ended: it was stopped"):
        upkeep.agent.ping()


def test_a_guest_that_is_not_brought_up_to_date_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ending = Ending()
    upkeep = AgentUpkeep(BrokenGuest(), ending.wait)
    upkeep.start(restored=True)
    upkeep._threads[-1].join(30)

    assert caplog.messages == ["the guest has its old clock and random numbers: agent: broken"]
    ending.event.set()
    upkeep.join()
