"""Every chapter is whole: its program runs, its checker takes the answer and refuses wrong ones."""

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.vmm.course.wrong import WRONG
from vmm.course.chapters import Chapter, chapters
from vmm.course.checking import check
from vmm.course.child import main

COURSE = Path(__file__).parents[4] / "docs" / "course"
CHAPTERS = chapters()
BOOTS_LINUX = {6}

each = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
needs_kvm = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs a usable /dev/kvm"
)


def shown(chapter: Chapter) -> str:
    """Return what the page says that the program prints."""
    blocks = re.findall(
        r"^    \$ vmm course run .*\n((?:    .*\n)+)", chapter.text.read_text(), re.M
    )
    [block] = blocks
    return re.sub(r"^    ", "", block, flags=re.M)


def without_numbers(text: str) -> str:
    """Return a text with ``N`` for each figure that differs from run to run."""
    return re.sub(r"\d+(\.\d+)? (ms|us|s)\b", r"N \2", text)


@needs_kvm
@pytest.mark.parametrize(
    "chapter", [one for one in CHAPTERS if one.number not in BOOTS_LINUX], ids=lambda one: one.name
)
def test_program_prints_what_the_page_shows(chapter: Chapter) -> None:
    command = [sys.executable, str(chapter.program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert done.stderr == ""
    assert without_numbers(done.stdout) == without_numbers(shown(chapter))


@each
def test_program_is_short(chapter: Chapter) -> None:
    assert len(chapter.program.read_text().splitlines()) <= 60


@each
def test_page_has_its_parts_and_links_that_lead_somewhere(chapter: Chapter) -> None:
    text = chapter.text.read_text()

    assert re.match(rf"# {chapter.number}\. \S", text)
    assert "\n## Try\n" in text
    assert "\n## Exercise\n" in text
    for link in re.findall(r"\]\(([^):#]+)\)", text):
        assert (chapter.text.parent / link).exists(), link


@each
def test_program_imports_no_more_than_its_chapter_may(chapter: Chapter) -> None:
    ours = {
        node.module
        for node in ast.walk(ast.parse(chapter.program.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
        if node.module.split(".")[0] in ("virtio", "transport", "vmm")
    }

    assert ours <= ALLOWED[chapter.number]


ALLOWED: dict[int, set[str]] = {
    1: set(),
    2: {"vmm.course.lab"},
    3: {"vmm.course.lab"},
    4: {"vmm.course.lab"},
    5: {"vmm.course.lab"},
    6: {"vmm"},
    7: set(),
    8: {"virtio", "virtio.testing"},
    9: {"virtio", "virtio.testing"},
    10: {"virtio", "virtio.testing"},
    11: {"vmm.course.lab"},
    12: {"virtio", "vmm.course.board"},
}


@needs_kvm
@each
def test_checker_accepts_the_answer(chapter: Chapter) -> None:
    steps = list[str]()

    assert check(chapter, chapter.answer, steps.append) is None
    assert len(steps) >= 4


@needs_kvm
@each
def test_checker_refuses_the_exercise_as_it_is_given(chapter: Chapter) -> None:
    assert check(chapter, chapter.exercise, lambda text: None)


def test_each_exercise_has_wrong_answers() -> None:
    assert [number for number, wrong in WRONG.items() if len(wrong) >= 2] == [
        chapter.number for chapter in CHAPTERS
    ]


@needs_kvm
@pytest.mark.parametrize(
    ("number", "right", "wrong", "hint"),
    [(number, *case) for number, cases in WRONG.items() for case in cases],
)
def test_checker_tells_what_is_missing(
    number: int, right: str, wrong: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chapter = CHAPTERS[number - 1]
    answer = chapter.answer.read_text()
    assert right in answer
    file = tmp_path / "mine.py"
    file.write_text(answer.replace(right, wrong))

    # In this process: a new one for each would take most of the time. Checked files are told
    # apart by nothing that stays, but for the way to their folder.
    with open(os.memfd_create("told"), "rb") as told, monkeypatch.context() as patch:
        patch.setattr("sys.path", list(sys.path))
        patch.delitem(sys.modules, "mine", raising=False)
        main(str(number), str(file), str(told.fileno()))
        told.seek(0)
        *_, last = told.read().decode().splitlines()

    assert last.startswith("missing ")
    assert hint in last


def test_drawings_are_those_that_the_code_makes() -> None:
    drawings = runpy.run_path(str(COURSE / "drawings.py"))["DRAWINGS"]

    assert list(drawings) == [chapter.name for chapter in CHAPTERS]
    for name, draw in drawings.items():
        assert (COURSE / name / "drawing.svg").read_text() == draw().svg(), "drawings.py"
