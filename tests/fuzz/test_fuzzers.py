"""The fuzzers find what is there to be found, and say so."""

import signal
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.guard import Finding, Guard
from tests.fuzz.mutate import mutations
from tests.fuzz.run import Report, fuzz, main
from tests.fuzz.targets import load_target
from tests.fuzz.targets.ram import FuzzRam


def spin(data: bytes) -> None:
    sum(range(2_000_000))


def many_times(run: Guard) -> None:
    for _ in range(20000):
        run(b"")


def test_an_input_that_takes_too_long_is_a_finding() -> None:
    with pytest.raises(Finding, match=r"takes .* s, 0\.001 s are allowed"):
        Guard(spin, seconds=0.001)(b"")


def test_an_input_that_is_slow_only_now_and_then_is_none() -> None:
    slow = iter([True, True, True, False, False, False])

    def now_and_then(data: bytes) -> None:
        if next(slow):
            spin(data)

    Guard(now_and_then, seconds=0.001)(b"")

    assert list(slow) == []


def test_an_input_that_does_not_end_is_a_finding() -> None:
    run = Guard(load_target("canary"))
    before = signal.getsignal(signal.SIGPROF)
    run.watch_for_hangs(0.05)

    try:
        with pytest.raises(Finding, match="does not end"):
            run(b"the hang")
    finally:
        signal.signal(signal.SIGPROF, before)


def test_memory_kept_from_input_to_input_is_a_finding() -> None:
    sizes = iter([100 << 20, 101 << 20, 200 << 20])
    run = Guard(lambda data: None, growth=50 << 20, resident=lambda: next(sizes))

    with pytest.raises(Finding, match="after 12288 inputs 200 MiB are in use, 150 MiB"):
        many_times(run)


def test_memory_that_settles_is_no_finding() -> None:
    run = Guard(lambda data: None, growth=50 << 20, resident=lambda: 100 << 20)

    many_times(run)

    assert run.count == 20000


def test_a_write_past_ram_is_noticed() -> None:
    ram = FuzzRam((0, 16))
    ram.content[64 + 16] = 0

    with pytest.raises(AssertionError, match="written above"):
        ram.assert_canaries()


def test_a_write_where_nobody_may_is_noticed() -> None:
    ram = FuzzRam((0, 16))
    before = ram.snapshot()
    ram.memory.view(4, 2)[:] = b"xy"

    ram.assert_kept(before, [(64 + 4, 64 + 6)])
    with pytest.raises(AssertionError, match=r"content offsets \[69\]"):
        ram.assert_kept(before, [(64 + 4, 64 + 5)])


def test_mutations_are_the_same_for_the_same_seed() -> None:
    seeds = [bytes(range(40)), b"hello"]

    made = list(mutations(seeds, 200, Random(7)))

    assert made == list(mutations(seeds, 200, Random(7)))
    assert len(set(made)) > 150


def test_a_fault_is_found_stored_and_reproducible(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="coverage-guided fuzzing needs the extra 'fuzz'")

    report = fuzz("canary", 20, findings=tmp_path / "findings", grown=tmp_path / "grown")

    assert [path.read_bytes()[:1] for path in report.findings] == [b"!"]
    assert "the canary was found" in report.reason
    with pytest.raises(ValueError, match="the canary was found"):
        main(["canary", "--replay", str(report.findings[0])])


def test_a_clean_run_is_told_in_numbers(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="coverage-guided fuzzing needs the extra 'fuzz'")

    report = fuzz("elf", 1, findings=tmp_path / "findings", grown=tmp_path / "grown")

    assert not report.failed
    assert report.executions > 100
    assert report.peak_mib > 10


def test_a_report_is_one_line() -> None:
    report = Report("elf", 120_000, 60, 45, 44, (), "")

    assert report.line() == (
        "elf                 120000 executions     60 s    2000/s    45 in corpus"
        "    44 MiB 0 findings"
    )
