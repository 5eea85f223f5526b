"""A wish to end a run asks a guest that listens first, and ends any other at once."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from vmm.cli.interruption import Interruption
from vmm.ending.ending import End
from vmm.machine import Machine


class FakeMachine:
    """A machine whose guest listens to its power button or does not; its own loop."""

    def __init__(self, *, listens: bool) -> None:
        self.loop = self
        self.listens = listens
        self.said: list[str] = []
        self.later: list[Callable[[], object]] = []

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        callback()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> None:
        self.later.append(callback)

    def press_power_button(self) -> bool:
        self.said.append("pressed" if self.listens else "nobody listens")
        return self.listens

    def end(self, end: End, message: str) -> None:
        self.said.append(message)


def watched(machine: FakeMachine, **how: Any) -> Interruption:
    interruption = Interruption()
    interruption.watch(cast(Machine, machine), **how)
    return interruption


def test_a_guest_that_listens_is_asked_and_goes_on() -> None:
    machine = FakeMachine(listens=True)
    interruption = watched(machine, ask=True)

    interruption.ask("SIGTERM")

    assert machine.said == ["pressed"]
    assert interruption.message == ""


def test_a_guest_that_does_not_switch_itself_off_is_ended() -> None:
    machine = FakeMachine(listens=True)
    watched(machine, ask=True).ask("SIGTERM")

    machine.later[0]()

    assert machine.said[1:] == ["SIGTERM; the guest did not switch itself off within 10 s"]


def test_who_asks_twice_ends_the_guest() -> None:
    machine = FakeMachine(listens=True)
    interruption = watched(machine, ask=True)

    interruption.ask("SIGTERM")
    interruption.ask("SIGTERM")

    assert machine.said == ["pressed", "SIGTERM"]


def test_first_wish_says_why_the_run_ended() -> None:
    interruption = watched(FakeMachine(listens=False))

    interruption("SIGTERM")
    interruption("SIGINT")

    assert interruption.message == "SIGTERM"


def test_a_guest_that_does_not_listen_is_ended_at_once() -> None:
    machine = FakeMachine(listens=False)

    watched(machine, ask=True).ask("SIGTERM")

    assert machine.said == ["nobody listens", "SIGTERM"]


@pytest.mark.parametrize("wish", [Interruption.ask, Interruption.__call__])
def test_a_guest_that_runs_a_command_is_ended_at_once(
    wish: Callable[[Interruption, str], None],
) -> None:
    machine = FakeMachine(listens=True)

    wish(watched(machine), "SIGTERM")

    assert machine.said == ["SIGTERM"]


def test_a_guest_that_was_asked_and_starts_again_is_ended() -> None:
    interruption = watched(FakeMachine(listens=True), ask=True)
    interruption.ask("SIGTERM")
    again = FakeMachine(listens=True)

    interruption.watch(cast(Machine, again), ask=True)

    assert again.said == ["SIGTERM"]
