"""The first thing that settles how a guest ended decides, and a panic is never mistaken."""

from collections.abc import Callable

import pytest

from vmm.ending.ending import End
from vmm.ending.verdict import Verdict


class Timers:
    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], object]]] = []

    def __call__(self, seconds: float, callback: Callable[[], object]) -> None:
        self.calls.append((seconds, callback))

    def fire(self) -> None:
        """Make the calls that wait, and those that they ask for."""
        while self.calls:
            self.calls.pop(0)[1]()


def alive() -> bool:
    return True


def ending_of(verdict: Verdict) -> End | None:
    return verdict.ending.end if verdict.ending else None


def test_no_ending_before_there_is_one() -> None:
    verdict = Verdict(Timers(), alive)

    assert verdict.ending is None
    assert not verdict.wait(0)


def test_the_first_ending_alone_is_announced_once_it_can_be_read() -> None:
    read: list[End | None] = []
    verdict = Verdict(Timers(), alive, lambda: read.append(ending_of(verdict)))

    verdict.end(End.REBOOT)
    verdict.end(End.STOPPED)

    assert read == [End.REBOOT]


def test_first_ending_wins() -> None:
    verdict = Verdict(Timers(), alive)
    verdict.guest_reported(5)
    verdict.end(End.TIMEOUT)

    assert verdict.wait(0)
    assert ending_of(verdict) is End.REPORTED


def test_endings_after_the_first_are_not_kept() -> None:
    verdict = Verdict(Timers(), alive)
    for status in range(100):
        verdict.guest_reported(status)

    assert verdict._reached.qsize() == 1
    assert verdict.ending is not None
    assert verdict.ending.status == 0


@pytest.mark.parametrize("status", [0, 1, 77, 255])
def test_reported_status_is_the_exit_status(status: int) -> None:
    verdict = Verdict(Timers(), alive)
    verdict.guest_reported(status)

    assert verdict.ending is not None
    assert verdict.ending.status == status


def test_reported_status_above_a_byte_keeps_its_low_byte() -> None:
    verdict = Verdict(Timers(), alive)
    verdict.guest_reported(0x1FF)

    assert verdict.ending is not None
    assert (verdict.ending.status, verdict.ending.message) == (255, "the guest reported status 255")


PANIC_LINES = (
    "[    1.0] Kernel panic - not syncing: VFS: no root",
    "[    1.0] Kernel panic - not syncing: second",
    "[    1.0] ---[ end Kernel panic - not syncing: VFS: no root ]---",
)


def test_words_of_a_panic_end_no_guest_that_goes_on() -> None:
    timers = Timers()
    verdict = Verdict(timers, alive)
    for line in PANIC_LINES * 3:
        verdict.see_line(line)

    assert len(timers.calls) == 1
    timers.fire()
    assert verdict.ending is None
    verdict.guest_reset()
    assert ending_of(verdict) is End.REBOOT


def test_kernel_that_stands_still_after_its_words_has_panicked() -> None:
    timers = Timers()
    looks: list[int] = []
    verdict = Verdict(timers, lambda: bool(looks.append(1)))  # type: ignore[func-returns-value]
    for line in PANIC_LINES:
        verdict.see_line(line)

    assert verdict.ending is None
    timers.fire()
    assert len(looks) == 20
    assert verdict.ending is not None
    assert verdict.ending.message == "the guest's kernel panicked: VFS: no root"
    assert verdict.ending.report == [
        "the verdict rests on a kernel that stands still and words on the console"
    ]


def test_other_processors_that_run_on_for_a_while_are_no_life() -> None:
    timers = Timers()
    lively = iter([True] * 39)
    verdict = Verdict(timers, lambda: next(lively, False))
    verdict.see_line(PANIC_LINES[0])
    timers.fire()
    verdict.guest_reset()

    assert ending_of(verdict) is End.PANIC


def test_kernel_that_has_not_finished_its_words_is_waited_for() -> None:
    timers = Timers()
    verdict = Verdict(timers, lambda: False)
    verdict.see_line(PANIC_LINES[0])
    timers.fire()

    assert verdict.ending is None
    verdict.see_line(PANIC_LINES[2])
    timers.fire()
    assert ending_of(verdict) is End.PANIC


@pytest.mark.parametrize("words", ["reboot: Restarting system", "reboot: Power down"])
def test_orderly_end_after_the_words_of_a_panic_is_one(words: str) -> None:
    verdict = Verdict(Timers(), alive)
    for line in (*PANIC_LINES, f"[    9.0] {words}"):
        verdict.see_line(line)
    verdict.guest_reset()

    assert ending_of(verdict) is End.REBOOT


def test_guest_with_a_crash_kernel_may_finish() -> None:
    verdict = Verdict(Timers(), alive)
    verdict.guest_signalled(2)

    assert verdict.ending is None
    verdict.see_line("reboot: Restarting system")
    verdict.guest_reset()
    assert verdict.ending is not None
    assert verdict.ending.end is End.PANIC
    assert verdict.ending.report == [
        "the verdict rests on a reset and pvpanic of a guest with a crash kernel"
    ]


def test_reason_of_a_panic_commands_no_terminal_and_is_short() -> None:
    verdict = Verdict(Timers(), alive)
    verdict.see_line("Kernel panic - not syncing: \x1b[2K\rvmm: fine" + "!" * 4000)
    verdict.guest_signalled(1)

    assert verdict.ending is not None
    assert verdict.ending.message.startswith(r"the guest's kernel panicked: \x1b[2K\rvmm: fine!!!")
    assert len(verdict.ending.message) < 300


def test_reset_and_triple_fault_after_a_panic_are_the_panic() -> None:
    for tell in (Verdict.guest_reset, lambda v: v.vcpu_ended(End.TRIPLE_FAULT, "fault", [])):
        verdict = Verdict(Timers(), alive)
        verdict.see_line("[    1.0] Kernel panic - not syncing: oops")
        tell(verdict)

        assert ending_of(verdict) is End.PANIC


@pytest.mark.parametrize(
    "line",
    [
        "echo Kernel panic - not syncing: fake",
        "I read: Kernel panic - not syncing: quoted",
        "reboot: Power down later",
    ],
)
def test_words_elsewhere_in_a_line_are_no_panic(line: str) -> None:
    timers = Timers()
    verdict = Verdict(timers, alive)
    verdict.see_line(line)
    verdict.guest_reset()

    assert timers.calls == []
    assert ending_of(verdict) is End.REBOOT


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("[    9.000000] reboot: Power down", End.POWER_OFF),
        ("[    9.000000][    T1] reboot: Power down", End.POWER_OFF),
        ("/ # [    9.000000] reboot: Power down", End.POWER_OFF),
        ("reboot: System halted", End.POWER_OFF),
        ("reboot: Restarting system", End.HALTED),
        ("", End.HALTED),
    ],
)
def test_halt_is_a_power_off_only_if_the_kernel_said_so(line: str, end: End) -> None:
    verdict = Verdict(Timers(), alive)
    verdict.see_line(line)
    verdict.guest_halted()

    assert ending_of(verdict) is end


def test_halt_after_all_devices_were_given_back_is_a_power_off() -> None:
    verdict = Verdict(Timers(), alive)
    verdict.guest_halted(devices_reset=True)

    assert ending_of(verdict) is End.POWER_OFF


def test_halt_after_a_panic_is_none_whatever_the_devices_say() -> None:
    verdict = Verdict(Timers(), alive)
    verdict.see_line("[    9.0] Kernel panic - not syncing: no more")
    verdict.guest_halted(devices_reset=True)

    assert ending_of(verdict) is End.PANIC


def test_triple_fault_is_a_reboot_if_the_kernel_said_so() -> None:
    verdict = Verdict(Timers(), alive)
    verdict.see_line("[    9.0] reboot: Restarting system")
    verdict.vcpu_ended(End.TRIPLE_FAULT, "vCPU 0: triple fault", [])

    assert ending_of(verdict) is End.REBOOT


def test_triple_fault_out_of_the_blue_is_one() -> None:
    verdict = Verdict(Timers(), alive)
    verdict.vcpu_ended(End.TRIPLE_FAULT, "vCPU 0: triple fault", ["rip"])

    assert verdict.ending is not None
    assert (verdict.ending.end, verdict.ending.report) == (End.TRIPLE_FAULT, ["rip"])


@pytest.mark.parametrize(("events", "end"), [(1, End.PANIC), (3, End.PANIC), (4, End.POWER_OFF)])
def test_pvpanic_event_settles(events: int, end: End) -> None:
    verdict = Verdict(Timers(), alive)
    verdict.guest_signalled(events)

    assert ending_of(verdict) is end


def test_every_end_has_a_status_of_its_own() -> None:
    from vmm.ending.ending import Ending

    statuses = {end: Ending(end, "").status for end in End if end is not End.REPORTED}

    assert statuses == {
        End.POWER_OFF: 0,
        End.STOPPED: 0,
        End.REBOOT: 120,
        End.PANIC: 121,
        End.TRIPLE_FAULT: 122,
        End.VCPU_FAILED: 123,
        End.TIMEOUT: 124,
        End.HOST_FAILED: 125,
        End.HALTED: 126,
        End.INTERRUPTED: 130,
    }
