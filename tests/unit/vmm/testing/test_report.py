"""The report on a guest: the commands of the test and how they ended."""

from types import SimpleNamespace
from typing import Any

from vmm.agent import Result
from vmm.driver_check import Diagnosis, load_duties
from vmm.testing.report import LastCommands, describe


def result(status: int) -> Result:
    return Result(["x"], status, "", "", 0.25)


def test_a_command_is_shown_with_its_status_once_it_has_ended() -> None:
    commands = LastCommands()

    commands.started(["mount", "/dev/vda", "/mnt"])
    commands.ended(["mount", "/dev/vda", "/mnt"], result(32))
    commands.started(["sleep", "9"])

    assert commands.lines() == ["mount /dev/vda /mnt -> 32 after 0.250 s", "sleep 9"]


def test_the_last_ten_commands_are_shown() -> None:
    commands = LastCommands()

    for number in range(12):
        commands.started([str(number)])

    assert commands.lines() == ["2", "3", "4", "5", "6", "7", "8", "9", "10", "11"]


def test_what_the_drivers_did_wrong_is_shown_when_somebody_asked_for_it() -> None:
    mistake = load_duties().mistakes["never-reset"]
    found = [Diagnosis(mistake, "block0", -1, "did it", "something else", "do that")]
    machine: Any = SimpleNamespace(
        ending=None,
        events=list,
        describe=list,
        doctor=SimpleNamespace(diagnoses=found),
    )

    assert "drivers:\n  block0: the driver did it [never-reset]\n  rule DRV-INI-02" in describe(
        machine, LastCommands()
    )
    machine.doctor = None
    assert "drivers:" not in describe(machine, LastCommands())
