"""The limits of a jail: the usual ones, and those that somebody writes on a command line."""

from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.sandbox.limits import file_bytes, overlay_bytes, parse_limits

MIB = 1 << 20


def texts(words: list[str], overlays: int = 0) -> dict[str, str]:
    limits = parse_limits(words, MachineConfig(memory_bytes=256 * MIB, cpus=2), overlays)
    assert limits is not None
    return {name: limit.text for name, limit in limits.items()}


def test_usual_limits_are_those_of_the_machine() -> None:
    assert texts([], overlays=MIB) == {
        "memory": str((256 + 1 + 128) * MIB),
        "pids": "66",
        "cpu": "300000 100000",
        "io": "default 50",
    }


def test_each_device_of_the_machine_may_have_a_thread() -> None:
    config = MachineConfig(cpus=2, disks=(DiskConfig("a"), DiskConfig("b")), ports=("log",))
    limits = parse_limits([], config, 0)

    assert limits is not None
    assert limits["pids"].text == "69"


@pytest.mark.parametrize("word", ["memory=1G", "pids=9", "cpu=1", "io=7"])
def test_limit_of_a_word_is_asked_for_and_a_usual_one_is_not(word: str) -> None:
    limits = parse_limits([word], MachineConfig(), 0)

    assert limits is not None
    assert [name for name, limit in limits.items() if limit.asked] == [word.partition("=")[0]]


def test_overlay_counts_with_its_limit_or_the_size_of_its_disk() -> None:
    assert overlay_bytes([(10, None), (20, 5), (30, 40)]) == 10 + 5 + 30


@pytest.mark.parametrize(
    ("word", "name", "text"),
    [
        ("memory=1G", "memory", "1073741824"),
        ("memory=max", "memory", "max"),
        ("pids=9", "pids", "9"),
        ("cpu=0.25", "cpu", "25000 100000"),
        ("cpu=max", "cpu", "max"),
        ("io=200", "io", "default 200"),
        ("io=max", "io", "default 100"),
    ],
)
def test_word_sets_its_limit(word: str, name: str, text: str) -> None:
    assert texts([word])[name] == text


def test_none_is_no_limit_at_all() -> None:
    assert parse_limits(["none"], MachineConfig(), 0) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["disk=1"], "--jail-limit disk=1: must be memory=SIZE, pids=NUMBER, cpu=PROCESSORS"),
        (["memory"], "size ''"),
        (["memory=x"], "size 'x'"),
        (["pids=0"], "--jail-limit pids=0: must be 1 to 4194304"),
        (["pids=1.5"], "--jail-limit pids=1.5: must be memory"),
        (["cpu=nan"], "--jail-limit cpu=nan: must be 0.01 to 4096"),
        (["io=10001"], "--jail-limit io=10001: must be 1 to 10000"),
        (["none", "pids=9"], "--jail-limit none: cannot be had together with others"),
    ],
)
def test_word_that_cannot_be_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        texts(words)

    assert str(caught.value).startswith(message)


def test_file_has_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(4097))

    assert file_bytes(str(tmp_path / "disk")) == 4097


def test_missing_file_has_no_bytes() -> None:
    assert file_bytes("/nowhere/disk") == 0
