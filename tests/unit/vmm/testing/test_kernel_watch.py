"""What a kernel complains of is told once, of the right test, from its log or from its console."""

from types import SimpleNamespace
from typing import Any

import pytest

from vmm.agent import AgentLostError, AgentTimeoutError
from vmm.agent.errors import guest_error
from vmm.agent.kernel_log import KernelLog, KernelRecord
from vmm.console.log import ConsoleLog
from vmm.testing.boot_log import BootLog
from vmm.testing.kernel_watch import KernelWatch

BUG = "BUG: bad at f+0x1/0x2"


class Kernel:
    """The machine and the agent of a guest whose kernel prints what the test says."""

    def __init__(self) -> None:
        self.console = ConsoleLog()
        self.ending: object | None = None
        self.threads = [SimpleNamespace(paused=False)]
        self.agent = self
        self.tainted: int | None = 4
        self.asked = 0
        self.error: Exception | None = None
        self._number = 0
        self._records: list[KernelRecord] = []

    def print(self, text: str, facility: int = 0) -> None:
        self._records.append(KernelRecord(facility, 4, self._number, 1_000_000, text))
        self._number += 1

    def lose(self) -> None:
        self._records.clear()

    def kernel_log(self, timeout: float) -> KernelLog:
        self.asked += 1
        if self.error is not None:
            raise self.error
        records, self._records = self._records, []
        return KernelLog(self.tainted, records, False)

    def wait_ready(self, timeout: float) -> None:
        raise AgentLostError("gone")


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def watch(kernel: Kernel) -> KernelWatch:
    machine: Any = kernel
    return KernelWatch(machine, 4)


def titles(watch: KernelWatch) -> list[str]:
    watch.look()
    return [one.title for one in watch.complaints()]


def test_kernel_that_says_nothing_has_no_complaint(watch: KernelWatch, kernel: Kernel) -> None:
    kernel.print("vda: 512 sectors")

    assert titles(watch) == []
    assert watch.lines == ["[    1.000000] vda: 512 sectors"]


def test_report_is_a_complaint_and_what_a_program_writes_is_not(
    watch: KernelWatch, kernel: Kernel
) -> None:
    kernel.print(BUG)
    kernel.print("BUG: of a program", facility=1)

    assert titles(watch) == [BUG]
    assert watch.lines[-1].endswith("BUG: of a program")


def test_report_that_comes_in_two_parts_is_one(watch: KernelWatch, kernel: Kernel) -> None:
    kernel.print(BUG)
    watch.look()
    kernel.print("Call Trace:")
    kernel.print(" f+0x1/0x2")

    assert titles(watch) == [BUG]
    assert len(watch.complaints()[0].lines) == 3


def test_complaint_that_was_taken_is_told_no_more_and_the_next_one_is(
    watch: KernelWatch, kernel: Kernel
) -> None:
    kernel.print(BUG)
    kernel.tainted = 4 | 64
    watch.look()
    assert len(watch.take()) == 2
    assert titles(watch) == []
    kernel.print("BUG: another")

    assert titles(watch) == ["BUG: another"]


def test_complaint_of_one_test_is_not_the_next_ones(watch: KernelWatch, kernel: Kernel) -> None:
    kernel.print(BUG)
    kernel.tainted = 4 | 64
    watch.look()
    watch.begin()

    assert titles(watch) == []


@pytest.mark.parametrize(
    ("tainted", "told"),
    [
        (4, None),
        (4 | 64, "changed from 4 to 68: U (requested by a program)"),
        (4 | 512, "changed from 4 to 516: W (kernel issued a warning)"),
        (0, "changed from 4 to 0"),
        (4 | 1 << 30, "changed from 4 to 1073741828: bit 30"),
        (None, None),
    ],
)
def test_change_of_the_taint_is_a_complaint(
    watch: KernelWatch, kernel: Kernel, tainted: int | None, told: str | None
) -> None:
    kernel.tainted = tainted

    assert titles(watch) == ([f"/proc/sys/kernel/tainted {told}"] if told else [])


def test_taint_that_comes_with_a_report_is_not_told_twice(
    watch: KernelWatch, kernel: Kernel
) -> None:
    kernel.print(BUG)
    kernel.tainted = 4 | 128

    assert titles(watch) == [BUG]


def test_taint_that_no_report_brings_is_told_beside_one(watch: KernelWatch, kernel: Kernel) -> None:
    kernel.print(BUG)
    kernel.tainted = 4 | 128 | 4096

    assert len(titles(watch)) == 2


def test_messages_that_were_lost_are_told(watch: KernelWatch, kernel: Kernel) -> None:
    kernel.print("one")
    watch.look()
    kernel.print("two")
    kernel.lose()
    kernel.print("three")
    watch.look()

    assert watch.lines[1] == "some messages were lost here, as the kernel's log was full"


def test_console_serves_when_the_guest_has_gone(watch: KernelWatch, kernel: Kernel) -> None:
    kernel.print("BUG: seen")
    watch.look()
    kernel.console.write(b"[    1.000000] BUG: seen\r\n[    2.0] BUG: new\r\nBUG: of a program\r\n")
    kernel.ending = object()

    assert titles(watch) == ["BUG: seen", "BUG: new"]
    assert titles(watch) == ["BUG: seen", "BUG: new"]


def test_what_led_to_a_panic_is_left_to_the_ending(watch: KernelWatch, kernel: Kernel) -> None:
    kernel.console.write(b"[ 1.0] BUG: bad\n[ 1.1] Kernel panic - not syncing: Fatal\n")
    kernel.ending = object()

    assert titles(watch) == []


def test_kernel_without_a_log_is_asked_once(watch: KernelWatch, kernel: Kernel) -> None:
    kernel.error = guest_error(2, "read", "the kernel's log")
    kernel.console.write(b"[ 1.0] BUG: bad\n")

    assert titles(watch) == ["BUG: bad"]
    assert titles(watch) == ["BUG: bad"]
    assert kernel.asked == 1


def test_guest_that_stands_still_by_the_test_is_not_asked(
    watch: KernelWatch, kernel: Kernel
) -> None:
    kernel.threads[0].paused = True
    watch.look()

    assert kernel.asked == 0


@pytest.mark.parametrize("error", [AgentTimeoutError("late"), AgentLostError("anew")])
def test_guest_that_runs_and_does_not_answer_is_an_error(
    watch: KernelWatch, kernel: Kernel, error: Exception
) -> None:
    kernel.error = error

    with pytest.raises(type(error)):
        watch.look()


# The boot before a snapshot


def test_log_of_a_boot_is_kept_with_its_snapshot(kernel: Kernel, tmp_path: Any) -> None:
    kernel.print(BUG)
    kernel.print("BUG: of a program", facility=1)
    agent: Any = kernel
    BootLog.take(agent, 1).save(tmp_path)

    log = BootLog.load(tmp_path)

    assert log.tainted == 4
    assert [one.title for one in log.complaints()] == [BUG]


@pytest.mark.parametrize("content", [None, b"", b"x\n", b"\xff\n[ 1.0] fine", b"4" * 30])
def test_log_that_is_not_there_or_damaged_tells_nothing(
    tmp_path: Any, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "kernel.log").write_bytes(content)

    log = BootLog.load(tmp_path)

    assert (log.tainted, log.complaints()) == (None, [])


def test_taint_of_a_report_that_the_log_has_lost_is_told_of_a_boot() -> None:
    assert [one.title for one in BootLog(4 | 512, ()).complaints()] == [
        "/proc/sys/kernel/tainted changed from 0 to 512: W (kernel issued a warning)"
    ]
    assert BootLog(4, ()).complaints() == []
