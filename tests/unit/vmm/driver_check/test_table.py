"""The table of duties, and the list of mistakes."""

import json
from pathlib import Path

from tests.unit.vmm.driver_check.bench import Bench
from vmm.driver_check import DutyTable, load_duties

HERE = Path(__file__).parent
PROJECT = HERE.parents[3]


def test_every_mistake_has_a_test_that_makes_it() -> None:
    tests = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    assert [name for name in load_duties().mistakes if f'"{name}"' not in tests] == []


def test_the_guide_lists_every_mistake_with_its_rule() -> None:
    page = (PROJECT / "docs" / "driver-doctor.md").read_text()
    for mistake in load_duties().mistakes.values():
        duty = mistake.duty
        assert f"| `{mistake.id}` | {duty.id}, {duty.section} | {duty.says}" in page


def test_the_table_of_linux_has_every_duty_and_none_is_broken() -> None:
    table = (PROJECT / "tests" / "spec" / "DRIVERS.md").read_text()
    for duty in load_duties().duties.values():
        assert f"| {duty.id} | {duty.section} | {duty.says} |" in table
    assert "broken**" not in table
    assert "Runs with a broken duty: 0." in table


def test_there_are_as_many_diagnoses_as_were_promised() -> None:
    assert len(load_duties().mistakes) >= 25


def test_a_duty_is_one_line_and_a_diagnosis_three(mmio: Bench) -> None:
    mmio.find()
    mmio.driver.status = 1
    mmio.found()
    [diagnosis] = mmio.doctor.diagnoses
    assert diagnosis.lines == (
        "gadget: the driver wrote Status = ACKNOWLEDGE to a device that it did not reset"
        " [never-reset]",
        'rule DRV-INI-02 (VIRTIO 1.2, 3.1.1 "Driver Requirements: Device Initialization"):'
        " a driver resets the device before anything else",
        "the device expected Status = 0 first: whoever had the device before may have left queues"
        " behind; next: write 0 to Status, then ACKNOWLEDGE",
    )


def test_the_table_tells_kept_broken_and_not_exercised(mmio: Bench) -> None:
    mmio.find()
    mmio.driver.status = 1
    mmio.driver.status = 3
    mmio.found()
    table = DutyTable(mmio.doctor)
    verdicts = {row.duty.id: row.verdict for row in table.rows}
    assert verdicts["DRV-INI-02"] == "broken"
    assert verdicts["DRV-INI-03"] == "kept"
    assert verdicts["DRV-RNG-01"] == "not exercised"
    assert [row.duty.id for row in table.broken] == ["DRV-INI-02"]
    lines = list(table.lines())
    assert "DRV-INI-02  broken        3.1.1" in "\n".join(lines)
    kept, total = table.count("kept"), len(table.rows)
    assert lines[-1] == f"{kept} duties kept, 1 broken, {total - kept - 1} not exercised"


def test_the_table_is_json_with_the_same(mmio: Bench) -> None:
    mmio.find()
    mmio.driver.status = 1
    mmio.found()
    value = json.loads(DutyTable(mmio.doctor).to_json())
    broken = [one for one in value["duties"] if one["verdict"] == "broken"]
    assert [(one["id"], one["devices"]) for one in broken] == [("DRV-INI-02", ["gadget"])]
    [diagnosis] = value["diagnoses"]
    assert (diagnosis["id"], diagnosis["device"], diagnosis["queue"]) == (
        "never-reset",
        "gadget",
        None,
    )


def test_a_hint_breaks_no_duty(mmio: Bench) -> None:
    assert mmio.stalls(stuck=False) == ["no-driver"]
    assert DutyTable(mmio.doctor).broken == []


def test_a_device_that_was_taken_out_keeps_its_place_in_the_table(mmio: Bench) -> None:
    mmio.find()
    mmio.driver.status = 1
    transports = mmio.doctor._devices.transports
    assert isinstance(transports, list)
    transports.clear()
    assert mmio.found() == ["never-reset"]
    assert mmio.doctor.cases == []
    assert [row.devices for row in DutyTable(mmio.doctor).broken] == [("gadget",)]


def test_a_sweep_over_queues_that_do_not_exist_is_told_once(mmio: Bench) -> None:
    mmio.go_live()
    for index in range(100, 200):
        mmio.driver.write(0x30, index)
        mmio.driver.write(0x38, 16)
        mmio.driver.notify(index)
    assert mmio.found() == ["queue-missing", "kick-of-missing-queue"]
    assert "of queue 100," in mmio.doctor.diagnoses[0].did


def test_a_mistake_is_told_once_however_often_it_is_made(mmio: Bench) -> None:
    mmio.find()
    for _ in range(100):
        mmio.driver.read(0x64)
    assert mmio.found() == ["register-write-only"]
