"""A trace as text and as JSON, and as a file that may fill up."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.vmm.trace.example import STORY
from virtio.errors import ConfigurationError
from vmm.trace.events import Event
from vmm.trace.file import TraceFile
from vmm.trace.filter import Filter
from vmm.trace.text import TextWriter
from vmm.trace.tracer import Tracer


class Source:
    """Tells events to who subscribed."""

    def __init__(self) -> None:
        self.tell: Callable[[list[Event]], object]

    def on_events(self, subscriber: Callable[[list[Event]], object]) -> None:
        self.tell = subscriber


def write(path: Path, *runs: list[Event], wanted: str = "") -> None:
    file = TraceFile(path, Filter(wanted))
    for run in runs:
        source = Source()
        end = file.begin(cast(Tracer, source))
        source.tell(run)
        end()
    file.close()


def test_text_reads_as_a_story() -> None:
    writer = TextWriter()
    lines = (writer.header(again=False) + writer.feed(STORY)).decode().splitlines()
    assert lines[:6] == [
        "     seconds  thread      device/queue event      details",
        "    0.000000  MainThread               boot       --- the guest runs ---",
        "    0.000001  vcpu-0      block0       status     ACKNOWLEDGE DRIVER",
        "    0.000002  vcpu-0      block0       writes     QueueNotify = 0",
        "    0.000009  block0      block0/0     kick       2 at once",
        "    0.000010  block0      block0/0     read       8 sectors at 8, chain 0 [-16 +4096 +1]",
    ]


def test_text_of_the_guest_cannot_speak_to_the_terminal() -> None:
    from vmm.trace.events import Command

    line = TextWriter().line(Command(0, number=1, step="run", what="\x1b[2J\n"))
    assert "\x1b" not in line
    assert "\n" not in line


@pytest.mark.parametrize("runs", [1, 2])
def test_json_is_whole_also_after_several_runs(tmp_path: Path, runs: int) -> None:
    write(tmp_path / "t.json", *[STORY] * runs)
    records: list[Any] = json.loads((tmp_path / "t.json").read_text())
    reads = [one for one in records if one["name"] == "read 8 sectors at 8"]
    assert [(one["ph"], one["ts"], one["dur"]) for one in reads] == [
        ("X", 11.1, 5.9),
        ("X", 10.0, 7.0),
    ] * runs
    flows = [one for one in records if one["cat" if "cat" in one else "ph"] == "flow"]
    assert [one["ph"] for one in flows].count("s") == 2 * runs


def test_json_goes_on_after_a_run_that_left_nothing(tmp_path: Path) -> None:
    write(tmp_path / "t.json", [], STORY)
    assert len(json.loads((tmp_path / "t.json").read_text())) > 10


def test_a_filter_leaves_out_what_does_not_fit(tmp_path: Path) -> None:
    write(tmp_path / "t.txt", STORY, wanted="block0 kick")
    text = (tmp_path / "t.txt").read_text()
    assert [line.split()[3] for line in text.splitlines()[1:]] == ["kick"]


def test_an_unknown_format_and_a_missing_folder_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"must end in one of \.txt, \.json, \.pftrace"):
        TraceFile(tmp_path / "trace.log", Filter())
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        TraceFile(tmp_path / "no" / "trace.txt", Filter())


@pytest.mark.parametrize("ending", [".txt", ".json", ".pftrace"])
def test_a_device_that_is_full_is_told_once_and_the_guest_goes_on(
    tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"t{ending}").symlink_to("/dev/full")
    write(tmp_path / f"t{ending}", STORY)
    assert capsys.readouterr().err == (
        f"vmm: trace {tmp_path}/t{ending}: No space left on device; no more is written, the guest"
        " goes on\n"
    )


def test_a_disk_that_fills_up_keeps_the_whole_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.json"
    file = TraceFile(path, Filter())
    source = Source()
    end = file.begin(cast(Tracer, source))
    source.tell(STORY[:2])
    plain = os.write

    def half(fd: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", plain)
        plain(fd, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    source.tell(STORY[2:])
    end()
    file.close()
    assert [one["name"] for one in json.loads(path.read_text()) if one["ph"] == "i"] == [
        "the guest runs",
        "status ACKNOWLEDGE DRIVER",
    ]
    assert "No space left" in capsys.readouterr().err


def test_a_pipe_that_nobody_reads_keeps_no_run_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vmm.host.patient_writer.LAST_SECONDS", 0.01)
    path = tmp_path / "t.txt"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = TraceFile(path, Filter())
    source = Source()
    end = file.begin(cast(Tracer, source), lambda: True)
    source.tell(STORY * 500)
    end()
    file.close()
    os.close(reader)

    assert capsys.readouterr().err == (
        f"vmm: trace {path}: nobody reads it; no more is written, the guest goes on\n"
    )
