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


def ending_of(verdict: Verdict) -> End | None:
    return verdict.ending.end if verdict.ending else None


def test_no_ending_before_there_is_one() -> None:
    verdict = Verdict(Timers())

    assert verdict.ending is None
    assert not verdict.wait(0)


def test_first_ending_wins() -> None:
    verdict = Verdict(Timers())
    verdict.guest_reported(5)
    verdict.end(End.TIMEOUT)

    assert verdict.wait(0)
    assert ending_of(verdict) is End.REPORTED


def test_endings_after_the_first_are_not_kept() -> None:
    verdict = Verdict(Timers())
    for status in range(100):
        verdict.guest_reported(status)

    assert verdict._reached.qsize() == 1
    assert verdict.ending is not None
    assert verdict.ending.status == 0


@pytest.mark.parametrize("status", [0, 1, 77, 255])
def test_reported_status_is_the_exit_status(status: int) -> None:
    verdict = Verdict(Timers())
    verdict.guest_reported(status)

    assert verdict.ending is not None
    assert verdict.ending.status == status


def test_reported_status_above_a_byte_keeps_its_low_byte() -> None:
    verdict = Verdict(Timers())
    verdict.guest_reported(0x1FF)

    assert verdict.ending is not None
    assert (verdict.ending.status, verdict.ending.message) == (255, "the guest reported status 255")


def test_panic_line_alone_settles_after_a_grace() -> None:
    timers = Timers()
    verdict = Verdict(timers)
    verdict.see_line("[    1.0] Kernel panic - not syncing: VFS: no root")
    verdict.see_line("[    1.0] Kernel panic - not syncing: second")

    assert verdict.ending is None
    assert [seconds for seconds, _ in timers.calls] == [10.0]
    timers.calls[0][1]()
    assert verdict.ending is not None
    assert verdict.ending.message == "the guest's kernel panicked: VFS: no root"


def test_end_of_panic_settles_at_once() -> None:
    verdict = Verdict(Timers())
    verdict.see_line("[    1.0] Kernel panic - not syncing: oops")
    verdict.see_line("[    1.0] ---[ end Kernel panic - not syncing: oops ]---")

    assert ending_of(verdict) is End.PANIC


def test_reason_of_a_panic_commands_no_terminal_and_is_short() -> None:
    verdict = Verdict(Timers())
    verdict.see_line("Kernel panic - not syncing: \x1b[2K\rvmm: fine" + "!" * 4000)
    verdict.guest_signalled(1)

    assert verdict.ending is not None
    assert verdict.ending.message.startswith(r"the guest's kernel panicked: \x1b[2K\rvmm: fine!!!")
    assert len(verdict.ending.message) < 300


def test_reset_and_triple_fault_after_a_panic_are_the_panic() -> None:
    for tell in (Verdict.guest_reset, lambda v: v.vcpu_ended(End.TRIPLE_FAULT, "fault", [])):
        verdict = Verdict(Timers())
        verdict.see_line("[    1.0] Kernel panic - not syncing: oops")
        tell(verdict)

        assert ending_of(verdict) is End.PANIC


@pytest.mark.parametrize(
    "line",
    [
        "echo Kernel panic - not syncing: fake",
        "I read: [    1.0] Kernel panic - not syncing: quoted",
        "reboot: Power down later",
    ],
)
def test_words_elsewhere_in_a_line_are_no_panic(line: str) -> None:
    timers = Timers()
    verdict = Verdict(timers)
    verdict.see_line(line)
    verdict.guest_reset()

    assert timers.calls == []
    assert ending_of(verdict) is End.REBOOT


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("[    9.000000] reboot: Power down", End.POWER_OFF),
        ("[    9.000000][    T1] reboot: Power down", End.POWER_OFF),
        ("reboot: System halted", End.POWER_OFF),
        ("reboot: Restarting system", End.HALTED),
        ("", End.HALTED),
    ],
)
def test_halt_is_a_power_off_only_if_the_kernel_said_so(line: str, end: End) -> None:
    verdict = Verdict(Timers())
    verdict.see_line(line)
    verdict.guest_halted()

    assert ending_of(verdict) is end


def test_halt_after_all_devices_were_given_back_is_a_power_off() -> None:
    verdict = Verdict(Timers())
    verdict.guest_halted(devices_reset=True)

    assert ending_of(verdict) is End.POWER_OFF


def test_halt_after_a_panic_is_none_whatever_the_devices_say() -> None:
    verdict = Verdict(Timers())
    verdict.see_line("[    9.0] Kernel panic - not syncing: no more")
    verdict.guest_halted(devices_reset=True)

    assert ending_of(verdict) is End.PANIC


def test_triple_fault_is_a_reboot_if_the_kernel_said_so() -> None:
    verdict = Verdict(Timers())
    verdict.see_line("[    9.0] reboot: Restarting system")
    verdict.vcpu_ended(End.TRIPLE_FAULT, "vCPU 0: triple fault", [])

    assert ending_of(verdict) is End.REBOOT


def test_triple_fault_out_of_the_blue_is_one() -> None:
    verdict = Verdict(Timers())
    verdict.vcpu_ended(End.TRIPLE_FAULT, "vCPU 0: triple fault", ["rip"])

    assert verdict.ending is not None
    assert (verdict.ending.end, verdict.ending.report) == (End.TRIPLE_FAULT, ["rip"])


@pytest.mark.parametrize(("events", "end"), [(1, End.PANIC), (2, End.PANIC), (4, End.POWER_OFF)])
def test_pvpanic_event_settles(events: int, end: End) -> None:
    verdict = Verdict(Timers())
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
