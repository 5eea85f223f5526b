"""Plain words are read as ``argparse`` reads them, and all others are left to it."""

import argparse

import pytest

from vmm.cli import run
from vmm.cli.quick_options import QuickOptions


def by_argparse(*words: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    parser.add_argument("-v", "--verbose", action="count", default=0)
    run.add_arguments(parser)
    return vars(parser.parse_args(words))


def by_quick_options(*words: str) -> dict[str, object] | None:
    options = QuickOptions()
    options.add_argument("-v", "--verbose", action="count", default=0)
    run.add_arguments(options)
    found = options.parse(words)
    return None if found is None else vars(found)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-v -v --stats",
        "--kernel a --initrd=b --cmdline=-debug --no-default-cmdline --boot pvh",
        "--memory 1G --cpus 2 --cpus 3 --poll 7 --timeout 1.5",
        "--disk a,ro --disk=b --restore there --trust-disk a --trust-disk b",
        "--no-rng --console virtio --agent beside --io-threads shared",
        "--no-rng --rng",
        "--memory= --on-reboot restart --engine rings",
        "true",
        "--cpus 2 echo a b",
        "-v -- sh -c true",
        "--cpus 2 -- echo -- --cpus",
        "--",
    ],
)
def test_plain_words_are_read_as_argparse_reads_them(line: str) -> None:
    words = line.split()

    assert by_quick_options(*words) == by_argparse(*words)


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "-vv",
        "--cpu 2",
        "--poll two",
        "--cpus",
        "--cpus -2",
        "--boot no",
        "--stats=yes",
        "-v=1",
        "--unknown",
        "echo --cpus 2",
        "echo -- a",
        "-",
    ],
)
def test_other_words_are_left_to_argparse(line: str) -> None:
    assert by_quick_options(*line.split()) is None


def test_reading_twice_starts_anew_each_time() -> None:
    options = QuickOptions()
    options.add_argument("--disk", action="append", default=[])

    assert options.parse(["--disk", "a"]).disk == ["a"]
    assert options.parse(["--disk", "b"]).disk == ["b"]


def test_arguments_that_nobody_takes_are_left_to_argparse() -> None:
    assert QuickOptions().parse(["a"]) is None
