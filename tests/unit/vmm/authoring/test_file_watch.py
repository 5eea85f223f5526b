"""A file that was saved is told of, once, when it is whole."""

import os
import threading
from pathlib import Path

import pytest

from vmm.authoring.file_watch import FileWatch

DEADLINE = 60.0


class Watched:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "dice.py"
        self.file.write_text("one")
        self.helper = folder / "helper.py"
        self.told: list[str] = []
        self.files = {"dice0": [self.file]}
        self.watch = FileWatch(lambda: self.files, self.told.append)

    def looks(self, count: int = 2) -> list[str]:
        """Look so often, and return what was told."""
        self.told.clear()
        for _ in range(count):
            self.watch.look()
        return self.told


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_file_that_nobody_saved_is_not_told(watched: Watched) -> None:
    assert watched.looks() == []


def test_saved_file_is_told_once(watched: Watched) -> None:
    watched.file.write_text("number two")

    assert watched.looks(3) == ["dice0"]
    assert watched.looks(3) == []


def test_file_that_is_being_written_is_told_when_it_is_whole(watched: Watched) -> None:
    watched.looks()
    watched.file.write_text("")
    first = watched.looks(1)
    watched.file.write_text("number two")
    second = watched.looks(1)

    assert (first, second) == ([], [])
    assert watched.looks(1) == ["dice0"]


def test_file_that_an_editor_replaces_is_told(watched: Watched) -> None:
    seen = os.stat(watched.file)
    other = watched.file.with_suffix(".new")
    other.write_text("two")
    os.utime(other, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    os.replace(other, watched.file)

    assert watched.looks() == ["dice0"]


def test_file_that_goes_and_comes_back_is_told_when_it_is_there(watched: Watched) -> None:
    watched.file.unlink()
    gone = list(watched.looks(3))
    watched.file.write_text("number two")

    assert (gone, watched.looks(3)) == ([], ["dice0"])


def test_file_that_comes_to_be_watched_is_told_from_then_on(watched: Watched) -> None:
    watched.helper.write_text("one")
    watched.files = {"dice0": [watched.file, watched.helper]}
    first = list(watched.looks())
    watched.helper.write_text("number two")

    assert (first, watched.looks()) == ([], ["dice0"])


def test_device_is_told_once_for_all_its_files(watched: Watched) -> None:
    watched.helper.write_text("one")
    watched.files = {"dice0": [watched.file, watched.helper], "dice1": [watched.file]}
    watched.looks()
    watched.file.write_text("number two")
    watched.helper.write_text("number two")

    assert watched.looks() == ["dice0", "dice1"]


def test_thread_tells_of_a_saved_file_until_it_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "dice.py"
    file.write_text("one")
    told = threading.Event()
    watch = FileWatch(lambda: {"dice0": [file]}, lambda _: told.set())
    watch.start()
    file.write_text("number two")
    try:
        assert told.wait(DEADLINE)
    finally:
        watch.close()
    watch.close()
