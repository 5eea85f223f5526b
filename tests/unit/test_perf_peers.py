"""The comparison with other VMMs: what its guest says is read, and compared, rightly."""

import sys
from array import array
from dataclasses import replace
from pathlib import Path

import pytest

from tests.perf.peers.comparison import as_json, compare, table
from tests.perf.peers.contender import CONTENDERS, Contender, Job
from tests.perf.peers.guest import write_image
from tests.perf.peers.workload import (
    WORKLOADS,
    GuestFailed,
    Measurement,
    Workload,
    parse,
)

LINE = "bench: blk-read bytes=4096 depth=32 count=10 random=1 event_idx=0"
READ = Workload("blk-read", 4096, 32, 10, random=True)
JOB = Job(Path("kernel"), Path("a,b.img"), "bench=x")

OURS = Contender("ours", lambda job: [], 0, ours=True)
SLOW = Contender("slow", lambda job: [], 1)
FAST = Contender("fast", lambda job: [], 1)


def saying(text: str, status: int = 0, good_status: int = 0) -> Contender:
    program = f"print({text!r}, flush=True); raise SystemExit({status})"
    return Contender("saying", lambda job: [sys.executable, "-c", program], good_status)


def test_line_of_the_guest_is_read() -> None:
    console = f"firmware\r\n{LINE} cycles=5000 moved=40960 kicks=5\r\nbench: done\r\n"

    assert parse(console) == [Measurement(READ, cycles=500.0, kicks=0.5)]


def test_short_entropy_counts_by_its_bytes() -> None:
    line = "bench: entropy bytes=4096 depth=1 count=4 random=0 event_idx=1"
    [measured] = parse(f"{line} cycles=600 moved=8192 kicks=4\nbench: done\n")

    assert measured == Measurement(Workload("entropy", 4096, 1, 4, event_idx=True), 300.0, 2.0)


@pytest.mark.parametrize(
    ("console", "message"),
    [
        ("", "did not come to its end"),
        (f"{LINE} cycles=1 moved=4096 kicks=1\n", "did not come to its end"),
        ("bench: error: word 3\r\n", "^word 3$"),
        ("bench: error: word 3\nbench: done\n", "^word 3$"),
        (f"{LINE} cycles=1\nbench: done\n", "cannot be read"),
        (f"{LINE} cycles=1 moved=0 kicks=0\nbench: done\n", "cannot be read"),
    ],
)
def test_guest_that_failed_is_told(console: str, message: str) -> None:
    with pytest.raises(GuestFailed, match=message):
        parse(console)


def test_word_is_what_the_guest_reads() -> None:
    assert READ.word == "bench=blk-read,bytes=4096,depth=32,count=10,random=1,event_idx=0"


def test_names_tell_all_workloads_apart() -> None:
    names = [workload.name for workload in WORKLOADS]

    assert names[0] == "blk-read 4K qd1"
    assert "blk-write 1M qd4 event-idx" in names
    assert len(set(names)) == len(names) == 24


def test_all_workloads_fit_on_a_command_line_of_linux() -> None:
    assert len(" ".join(workload.word for workload in WORKLOADS)) < 1900


def test_ratio_is_of_medians_to_the_best_other() -> None:
    rounds = {
        "ours": [[Measurement(READ, cycles, 1.0)] for cycles in (2000.0, 9000.0, 3000.0)],
        "slow": [[Measurement(READ, 12000.0, 1.0)]],
        "fast": [[Measurement(READ, 2000.0, 0.5)]],
    }
    [row] = compare(rounds, [OURS, SLOW, FAST], tsc_khz=2_000_000)

    assert row.microseconds == {"ours": 1.5, "slow": 6.0, "fast": 1.0}
    assert row.kicks == {"ours": 1.0, "slow": 1.0, "fast": 0.5}
    assert row.ratios == {"ours": 1.5}


def test_on_pci_the_ratio_is_to_others_on_pci_and_to_the_same_on_mmio() -> None:
    on_pci = replace(OURS, name="ours pci", transport="pci", like="ours")
    rounds = {
        name: [[Measurement(READ, cycles, 1.0)]]
        for name, cycles in {
            "ours": 2000.0,
            "ours pci": 3000.0,
            "slow": 4000.0,
            "fast": 1000.0,
        }.items()
    }
    [row] = compare(rounds, [OURS, on_pci, SLOW, replace(FAST, transport="pci")], tsc_khz=1_000_000)

    assert row.ratios == {"ours": 0.5, "ours pci": 3.0}
    assert row.over_mmio == {"ours pci": 1.5}
    assert table([row]).splitlines()[1].split()[-3:] == ["0.50", "3.00", "1.50"]


def test_alone_there_is_no_ratio() -> None:
    [row] = compare({"ours": [[Measurement(READ, 3000.0, 1.0)]]}, [OURS], tsc_khz=1_000_000)

    assert row.ratios == {}
    assert table([row]).splitlines()[1].split() == (["blk-read", "4K", "qd32", "3.0", "/", "1.00"])


def test_workload_that_one_lacks_stays_in_the_table() -> None:
    other = replace(READ, depth=1)
    rounds = {"ours": [[Measurement(READ, 1.0, 1.0)]], "fast": [[Measurement(other, 1.0, 1.0)]]}
    rows = compare(rounds, [OURS, FAST], tsc_khz=1000)

    assert [row.name for row in rows] == ["blk-read 4K qd32", "blk-read 4K qd1"]
    assert table(rows).count(" -") == 2


def test_stored_form_is_rounded_and_has_the_host() -> None:
    rows = compare({"ours": [[Measurement(READ, 1000.0, 1 / 3)]]}, [OURS], tsc_khz=3_000_000)

    assert as_json(rows, {"kind": "a host"}) == {
        "host": {"kind": "a host"},
        "workloads": [
            {
                "name": "blk-read 4K qd32",
                "microseconds": {"ours": 0.333},
                "kicks": {"ours": 0.333},
                "ratios": {},
                "over_mmio": {},
            }
        ],
    }


def test_good_run_gives_its_measurements() -> None:
    contender = saying(f"{LINE} cycles=10 moved=40960 kicks=0\nbench: done", 1, good_status=1)

    assert contender.run(JOB, 60.0) == [Measurement(READ, 1.0, 0.0)]


def test_bad_exit_status_after_good_words_fails() -> None:
    with pytest.raises(GuestFailed, match=r"saying: exit status 3; .*\n  bench: done"):
        saying("bench: done", 3).run(JOB, 60.0)


def test_failed_run_shows_the_console() -> None:
    with pytest.raises(GuestFailed, match=r"saying: no disk \(exit status 1\); .*\n  hello\n"):
        saying("hello\nbench: error: no disk", 1).run(JOB, 60.0)


def test_run_without_an_end_is_ended_and_shows_the_console() -> None:
    program = "print('up', flush=True); import time; time.sleep(600)"
    contender = Contender("hung", lambda job: [sys.executable, "-c", program], 0)
    with pytest.raises(GuestFailed, match=r"hung: no end within 2 s; .*\n  up"):
        contender.run(JOB, 2.0)


def test_every_contender_gets_kernel_disk_and_words() -> None:
    commands = [" ".join(contender.command(JOB)) for contender in CONTENDERS]

    assert [contender.name for contender in CONTENDERS] == [
        "pyvmm native",
        "pyvmm rings",
        "pyvmm python",
        "pyvmm native pci",
        "qemu threads",
        "qemu io_uring",
        "qemu threads pci",
        "qemu io_uring pci",
    ]
    assert all("-kernel kernel" in command for command in commands)
    assert all("a,,b.img" in command for command in commands)
    assert all("bench=x" in command for command in commands)
    assert ["aio=io_uring" in command for command in commands] == [False] * 5 + [True, False, True]
    assert ["bus=pci" in command for command in commands] == [
        one.transport == "pci" for one in CONTENDERS
    ]


def test_every_contender_gets_the_tap_in_place_of_the_disk() -> None:
    job = Job(Path("kernel"), Path(), "bench=x", "tap7")
    commands = [" ".join(contender.command(job)) for contender in CONTENDERS]

    assert ["vhost=off" in command for command in commands] == [False] * 4 + [True] * 4
    assert all("tap7" in command and "mac=02:" in command for command in commands)
    assert not any("disk" in command for command in commands)


def test_words_of_the_image_are_numbered(tmp_path: Path) -> None:
    write_image(tmp_path / "image", (2 << 20) + 512)
    words = array("Q", (tmp_path / "image").read_bytes())

    assert list(words) == list(range((2 << 20) // 8 + 64))
