"""Cassettes: golden files of what a device was asked and answered."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.unit.vmm.trace.example import STORY, taken
from virtio.errors import ConfigurationError
from vmm.machine import Machine
from vmm.trace.cassette import Cassette, CassetteError, Mode
from vmm.trace.events import Event
from vmm.trace.query import Trace


class FakeMachine:
    """A machine whose trace has two events before the block, and ``events`` in it."""

    def __init__(self, events: list[Event]) -> None:
        self.trace = [*STORY[:1]]
        self._events = events
        self.hardware = SimpleNamespace(transports=[SimpleNamespace(name="block0")])

    @contextmanager
    def traced(self) -> Iterator["FakeMachine"]:
        yield self

    def __len__(self) -> int:
        return len(self.trace)

    def __getitem__(self, index: slice) -> Trace:
        return Trace([*self.trace, *self._events])[index]


def play(
    path: Path, events: list[Event], *, mode: Mode | None = None, device: str = "block0"
) -> None:
    with Cassette(path, cast(Machine, FakeMachine(events)), device, mode=mode):
        pass


def test_a_cassette_is_readable_and_the_same_in_another_run(tmp_path: Path) -> None:
    path = tmp_path / "read.txt"
    play(path, STORY)
    assert path.read_text().splitlines() == [
        "# block0: steps of the driver; requests, and how many bytes answered them",
        "status ACKNOWLEDGE DRIVER",
        "0: read 8 sectors at 8 [-16 +4096 +1] => 4097",
        "0: read 8 sectors at 8 [-16 +4096 +1] => 4097",
    ]
    moved = [replace(one, at=one.at + 7, thread="other") for one in STORY]
    play(path, moved, mode="compare")


def test_another_request_is_told_as_a_diff_of_events(tmp_path: Path) -> None:
    path = tmp_path / "read.txt"
    play(path, STORY)
    with pytest.raises(CassetteError) as error:
        play(path, [*STORY, taken(50_000, 1, "write", 16)])
    assert str(error.value).splitlines()[-1] == (
        "+0: write 8 sectors at 16 [-16 +4096 +1] => no answer"
    )


def test_record_makes_it_anew_and_compare_wants_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "read.txt"
    with pytest.raises(ConfigurationError, match="there is none to compare with"):
        play(path, STORY, mode="compare")
    assert not path.exists()
    play(path, STORY)
    monkeypatch.setenv("PYVMM_CASSETTE", "record")
    play(path, [])
    assert len(path.read_text().splitlines()) == 1


def test_mistakes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="no device 'blok0'; there are block0"):
        play(tmp_path / "x", STORY, device="blok0")
    monkeypatch.setenv("PYVMM_CASSETTE", "twice")
    with pytest.raises(ConfigurationError, match="must be one of once, record, compare"):
        play(tmp_path / "x", STORY)
    (tmp_path / "bad").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="cassette"):
        play(tmp_path / "bad", STORY, mode="compare")
    with pytest.raises(ConfigurationError, match="cassette /dev/zero: no regular file"):
        play(Path("/dev/zero"), STORY, mode="compare")


def test_a_block_that_raises_leaves_no_cassette(tmp_path: Path) -> None:
    with (
        pytest.raises(ArithmeticError),
        Cassette(tmp_path / "x", cast(Machine, FakeMachine(STORY)), "block0"),
    ):
        raise ArithmeticError
    assert not (tmp_path / "x").exists()
