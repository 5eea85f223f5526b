"""The vCPUs of a machine are held and stopped together, so that none waits for one that is held."""

from typing import Any

from vmm.vcpus import Vcpus


class Thread:
    paused = False

    def __init__(self, index: int, steps: list[str]) -> None:
        self._index, self._steps = index, steps

    def __getattr__(self, name: str) -> Any:
        return lambda: self._steps.append(f"{name} {self._index}")


def vcpus(steps: list[str]) -> Vcpus:
    made = Vcpus(lambda *end: None)
    made.threads += [Thread(index, steps) for index in range(2)]  # type: ignore[misc]
    return made


def test_all_are_asked_to_pause_before_one_is_waited_for() -> None:
    steps: list[str] = []

    vcpus(steps).pause()

    assert steps == ["begin_pause 0", "begin_pause 1", "wait_paused 0", "wait_paused 1"]


def test_all_are_asked_to_stop_before_one_is_waited_for() -> None:
    steps: list[str] = []

    vcpus(steps).stop()

    assert steps == ["begin_stop 0", "begin_stop 1", "stop 0", "stop 1"]


def test_those_that_were_held_before_stay_so_behind_a_block_that_holds_all() -> None:
    steps: list[str] = []
    machine = vcpus(steps)
    machine.threads[0].paused = True  # type: ignore[misc]

    with machine.held():
        assert steps == ["begin_pause 1", "wait_paused 1"]

    assert steps[2:] == ["resume 1"]
