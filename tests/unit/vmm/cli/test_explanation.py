"""What ``--explain`` prints: bounded, escaped, and with the status of the guest."""

import json
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vmm.cli.explanation import Explanation
from vmm.driver_check import Diagnosis, DutyTable, load_duties
from vmm.ending.ending import End, Ending


@pytest.fixture
def explanation() -> Explanation:
    options: Any = SimpleNamespace(gdb=None)
    return Explanation(options, ExitStack())


def diagnosis(device: str = "disk") -> Diagnosis:
    mistake = load_duties().mistakes["never-reset"]
    return Diagnosis(mistake, device, -1, "did it", "something else", "do that")


def test_a_diagnosis_is_three_lines_on_stderr(
    explanation: Explanation, capsys: pytest.CaptureFixture[str]
) -> None:
    explanation._tell(diagnosis())
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "vmm: driver check: disk: the driver did it [never-reset]",
        'vmm:   rule DRV-INI-02 (VIRTIO 1.2, 3.1.1 "Driver Requirements: Device Initialization"):'
        " a driver resets the device before anything else",
        "vmm:   the device expected something else; next: do that",
    ]


def test_what_a_terminal_obeys_is_escaped(
    explanation: Explanation, capsys: pytest.CaptureFixture[str]
) -> None:
    explanation._tell(diagnosis("a\x1b[2Jb"))
    assert "\x1b" not in capsys.readouterr().err


def test_twenty_are_told_and_then_one_line_more(
    explanation: Explanation, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(100):
        explanation._tell(diagnosis())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 61
    assert lines[-1].endswith("20 mistakes were told; vmm check-driver tells all")


def test_the_status_of_a_run_that_is_explained_is_the_guests(explanation: Explanation) -> None:
    assert explanation.status(Ending(End.REPORTED, "it did", reported=3)) == 3
    assert explanation.status(Ending(End.HALTED, "it did")) == 126


def test_json_is_whole_however_long_a_diagnosis_is(capfd: pytest.CaptureFixture[str]) -> None:
    options: Any = SimpleNamespace(gdb=None, checks_drivers=True, json=True)
    doctor: Any = SimpleNamespace(diagnoses=[diagnosis("x\x1b" * 1000)], tallies=[])
    live: Any = SimpleNamespace(finish=lambda *, stuck: DutyTable(doctor))
    with ExitStack() as stack:
        explanation = Explanation(options, stack)
        explanation._finish(cast(Any, SimpleNamespace(ending=None)), live)

    [told] = json.loads(capfd.readouterr().out)["diagnoses"]
    assert told["device"] == "x\x1b" * 1000
