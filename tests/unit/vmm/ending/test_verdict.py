"""The first thing that settles how a guest ended decides, and a panic is never mistaken."""

from collections.abc import Callable

import pytest

from vmm.ending.ending import End, OnPanic
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
    assert verdict.ending.message == (
        "the guest's kernel panicked: VFS: no root"
        " (the kernel's log, and a kernel that stands still)"
    )
    assert verdict.ending.rests_on == ("the kernel's log", "a kernel that stands still")


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


PANICKED, CRASH_LOADED, SHUTDOWN = 1, 2, 4


@pytest.mark.parametrize(
    ("finish", "sign"),
    [
        (Verdict.guest_reset, "a reset"),
        (Verdict.guest_powered_off, "ACPI's power-off"),
        (Verdict.guest_halted, "a halt for ever"),
        (lambda v: v.guest_halted(devices_reset=True), "a halt for ever with all devices reset"),
        (lambda v: v.guest_signalled(SHUTDOWN), "pvpanic's power-off"),
        (lambda v: v.guest_reported(0), "the debug-exit port"),
        (lambda v: v.vcpu_ended(End.TRIPLE_FAULT, "fault", []), "a triple fault"),
    ],
)
def test_guest_with_a_crash_kernel_may_finish_and_has_panicked(
    finish: Callable[[Verdict], None], sign: str
) -> None:
    verdict = Verdict(Timers(), alive)
    verdict.see_line("[    9.0] Kernel panic - not syncing: oops")
    verdict.guest_signalled(CRASH_LOADED)

    assert verdict.ending is None
    verdict.see_line("[    4.0] reboot: Restarting system")
    finish(verdict)
    assert verdict.ending is not None
    assert verdict.ending.status == 121
    assert verdict.ending.message == (
        "the guest's kernel panicked: oops"
        f" (pvpanic of a guest with a crash kernel, and the kernel's log, and {sign})"
    )


@pytest.mark.parametrize(
    ("on_panic", "events", "ends"),
    [
        ("auto", PANICKED, True),
        ("auto", CRASH_LOADED, False),
        ("auto", PANICKED | CRASH_LOADED, True),
        ("end", PANICKED, True),
        ("end", CRASH_LOADED, True),
        ("wait", PANICKED, False),
        ("wait", CRASH_LOADED, False),
    ],
)
def test_user_says_whether_a_panic_ends_the_guest_at_once(
    on_panic: OnPanic, events: int, ends: bool
) -> None:
    verdict = Verdict(Timers(), alive, on_panic=on_panic)
    verdict.guest_signalled(events)

    assert (verdict.ending is not None) == ends
    verdict.guest_reset()
    assert ending_of(verdict) is End.PANIC


def test_panic_that_is_told_without_end_is_kept_once() -> None:
    verdict = Verdict(Timers(), alive, on_panic="wait")
    for _ in range(1000):
        verdict.guest_signalled(PANICKED)
    verdict.guest_reset()

    assert verdict.ending is not None
    assert verdict.ending.rests_on == ("pvpanic", "a reset")


def test_guest_that_makes_no_end_after_its_panic_is_told_with_both() -> None:
    verdict = Verdict(Timers(), alive)
    verdict.see_line("[    9.0] Kernel panic - not syncing: oops")
    verdict.guest_signalled(CRASH_LOADED)
    verdict.end(End.TIMEOUT, "no end within 5 s")

    assert verdict.ending is not None
    assert verdict.ending.status == 124
    assert verdict.ending.message == (
        "no end within 5 s; its kernel had panicked: oops (pvpanic of a guest with a crash kernel)"
    )


def test_kernel_that_stands_still_is_left_alone_by_one_who_waits() -> None:
    timers = Timers()
    verdict = Verdict(timers, lambda: False, on_panic="wait")
    for line in PANIC_LINES:
        verdict.see_line(line)
    timers.fire()

    assert verdict.ending is None
    verdict.guest_reset()
    assert ending_of(verdict) is End.PANIC


@pytest.mark.parametrize(
    "line",
    [
        "[    1.234567] Kernel panic - not syncing: oops",
        "<0>[    1.234567] Kernel panic - not syncing: oops",
        "[    1.234567][    T1] Kernel panic - not syncing: oops",
        "/ # echo hal[    1.234567] Kernel panic - not syncing: oops",
        "\x1b[32mok\x1b[0m [ 1234.567890][  C12] Kernel panic - not syncing: oops",
        "Kernel panic - not syncing: oops",
        "<0>Kernel panic - not syncing: oops",
        "50 %\rKernel panic - not syncing: oops",
        "\x1b[0m\x1b[KKernel panic - not syncing: oops",
    ],
)
def test_kernels_message_is_found_wherever_it_begins(line: str) -> None:
    verdict = Verdict(Timers(), alive)
    verdict.see_line(line)
    verdict.guest_reset()

    assert verdict.ending is not None
    assert verdict.ending.message == (
        "the guest's kernel panicked: oops (the kernel's log, and a reset)"
    )


def test_words_behind_other_text_are_the_reason_when_the_panic_is_printed_to_its_end() -> None:
    verdict = Verdict(Timers(), alive)
    verdict.see_line("login: Kernel panic - not syncing: oops")
    verdict.see_line("---[ end Kernel panic - not syncing: oops ]---")
    verdict.guest_reset()

    assert verdict.ending is not None
    assert verdict.ending.rests_on == ("the kernel's log", "a reset")


def test_words_behind_other_text_are_the_reason_when_pvpanic_tells_of_the_panic() -> None:
    verdict = Verdict(Timers(), alive)
    verdict.see_line("login: Kernel panic - not syncing: oops")
    verdict.guest_signalled(PANICKED)

    assert verdict.ending is not None
    assert verdict.ending.message == (
        "the guest's kernel panicked: oops (pvpanic, and the kernel's log)"
    )


def test_guest_that_gives_no_reason_has_panicked_by_pvpanic_alone() -> None:
    verdict = Verdict(Timers(), alive)
    verdict.guest_signalled(PANICKED)

    assert verdict.ending is not None
    assert verdict.ending.message == "the guest's kernel panicked: it gave no reason (pvpanic)"


@pytest.mark.parametrize(
    ("finish", "end"),
    [
        (lambda v: v.guest_reset(devices_reset=True), End.REBOOT),
        (lambda v: v.guest_halted(devices_reset=True), End.POWER_OFF),
        (lambda v: v.guest_signalled(SHUTDOWN), End.POWER_OFF),
        (lambda v: v.guest_reported(0), End.REPORTED),
    ],
)
def test_guest_that_printed_the_words_and_ends_in_order_has_not_panicked(
    finish: Callable[[Verdict], None], end: End
) -> None:
    verdict = Verdict(Timers(), alive)
    for line in PANIC_LINES:
        verdict.see_line(line)
    finish(verdict)

    assert ending_of(verdict) is end


@pytest.mark.parametrize(
    ("line", "finish", "rests_on"),
    [
        ("", Verdict.guest_reset, ("a reset",)),
        ("", lambda v: v.guest_reported(3), ("the debug-exit port",)),
        ("", lambda v: v.guest_signalled(SHUTDOWN), ("pvpanic's power-off",)),
        ("reboot: Power down", Verdict.guest_halted, ("the kernel's log", "a halt for ever")),
        (
            "",
            lambda v: v.guest_halted(devices_reset=True),
            ("a halt for ever with all devices reset",),
        ),
        (
            "reboot: Restarting system",
            lambda v: v.vcpu_ended(End.TRIPLE_FAULT, "fault", []),
            ("the kernel's log", "a triple fault"),
        ),
    ],
)
def test_ending_says_on_what_it_rests(
    line: str, finish: Callable[[Verdict], None], rests_on: tuple[str, ...]
) -> None:
    verdict = Verdict(Timers(), alive)
    verdict.see_line(line)
    finish(verdict)

    assert verdict.ending is not None
    assert verdict.ending.rests_on == rests_on


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


def test_halt_after_a_panic_is_the_panic() -> None:
    verdict = Verdict(Timers(), alive)
    verdict.see_line("[    9.0] Kernel panic - not syncing: no more")
    verdict.guest_halted()

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


def test_a_power_off_by_acpi_is_the_end_that_it_says() -> None:
    verdict = Verdict(Timers(), alive)

    verdict.guest_powered_off()

    assert verdict.ending is not None
    assert (verdict.ending.end, verdict.ending.rests_on) == (End.POWER_OFF, ("ACPI's power-off",))


def test_words_of_a_panic_before_an_orderly_power_off_by_acpi_are_no_panic() -> None:
    verdict = Verdict(Timers(), alive)
    verdict.see_line("Kernel panic - not syncing: said a program")

    verdict.guest_powered_off(devices_reset=True)

    assert ending_of(verdict) is End.POWER_OFF
