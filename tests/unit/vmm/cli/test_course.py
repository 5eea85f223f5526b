"""The command ``vmm course``: what it prints and writes, and its statuses."""

import os
from pathlib import Path

import pytest

from vmm.cli import main
from vmm.course.chapters import chapter

needs_kvm = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs a usable /dev/kvm"
)


def test_list_names_the_chapters_and_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["course"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == " 1  Eight instructions in a machine of your own"
    assert lines[-1] == "vmm course start 1 writes the first chapter into a folder"


def test_read_prints_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["course", "read", "02"]) == 0

    assert capsys.readouterr().out == chapter("2").text.read_text()


def test_start_writes_page_program_exercise_and_drawing(tmp_path: Path) -> None:
    assert main(["course", "start", "1", str(tmp_path / "new" / "folder")]) == 0

    written = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert written == {"index.md", "program.py", "exercise.py", "drawing.svg"}


def test_start_without_a_folder_makes_one_of_the_chapters_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["course", "start", "3"]) == 0

    assert (tmp_path / "03-ports-and-registers" / "exercise.py").exists()


def test_start_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "exercise.py").write_text("my work")

    assert main(["course", "start", "1", str(tmp_path)]) == 2

    assert "exercise.py: exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["exercise.py"]


def test_start_in_the_place_of_a_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")

    assert main(["course", "start", "1", str(tmp_path / "file")]) == 2
    assert main(["course", "start", "1", str(tmp_path / "file" / "inside")]) == 2

    assert capsys.readouterr().err.count("is a file; name a folder") == 2


def test_program_that_fails_for_want_of_kvm_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmm.cli.course.kvm_fault", lambda: "there is no /dev/kvm")
    monkeypatch.setattr("vmm.course.chapters.Chapter.program", Path("/no/such/program.py"))

    assert main(["course", "run", "1"]) == 125

    assert "vmm: this may be the reason: there is no /dev/kvm" in capsys.readouterr().err


@needs_kvm
def test_check_ends_with_0_for_a_solution_and_1_for_what_lacks_something(
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = chapter("1")

    assert main(["course", "check", "1", str(one.answer)]) == 0
    assert capsys.readouterr().out.endswith("chapter 1 is solved\n")
    assert main(["course", "check", "1", str(one.exercise)]) == 1
    assert "missing: the code ends by" in capsys.readouterr().out


def test_escapes_in_what_a_file_says_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(r"raise ValueError('\x1b[2J')")

    assert main(["course", "check", "1", str(tmp_path / "mine.py")]) == 1

    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["check", "99", "mine.py"],
        ["check", "1", "/no/such/file.py"],
        ["check", "1", "/"],
        ["check", "1", "/dev/null"],
        ["run", "0"],
    ],
)
def test_what_is_not_there_is_one_line_and_status_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["course", *words]) == 2

    assert len(capsys.readouterr().err.splitlines()) == 1


@needs_kvm
def test_run_runs_the_program(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["course", "run", "1"]) == 0

    assert capfd.readouterr().out.endswith("the guest halted\n")
