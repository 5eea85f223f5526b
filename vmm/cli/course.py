"""``vmm course``: learn how virtual machines work, by programs that run and exercises."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from vmm.console.text import printable
from vmm.course.chapters import Chapter, chapter, chapters
from vmm.course.checking import check
from vmm.ending.ending import STATUS_HOST
from vmm.x86 import kvm_fault

STATUS_MISSING: Final = 1
"""The exercise is not solved yet."""

_LONGEST: Final = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of this command."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="list the chapters (default)")
    for name, text in {
        "read": "print the page of a chapter",
        "start": "write a chapter's page, program and exercise into a folder",
        "run": "run the program of a chapter",
        "check": "check your solution of a chapter's exercise",
    }.items():
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("chapter", metavar="N", help="the chapter's number")
        if name == "start":
            action.add_argument(
                "folder", metavar="DIR", nargs="?", type=Path, help="(default: the chapter's name)"
            )
        if name == "check":
            action.add_argument("file", metavar="FILE", type=Path, help="your file")


def execute(options: argparse.Namespace) -> int:
    """Carry out the action; 0 when all is well, 1 when an exercise still lacks something."""
    if options.action in (None, "list"):
        return _list()
    one = chapter(options.chapter)
    if options.action == "read":
        print(one.text.read_text(encoding="utf-8"), end="")
        return 0
    if options.action == "start":
        return _start(one, options.folder or Path(one.name))
    if options.action == "run":
        return _run(one)
    return _check(one, options.file)


def _list() -> int:
    for one in chapters():
        print(f"{one.number:2}  {one.title}")
    print("vmm course start 1 writes the first chapter into a folder")
    return 0


def _start(one: Chapter, folder: Path) -> int:
    names = ("index.md", "program.py", "exercise.py")
    drawings = sorted(path.name for path in one.folder.glob("*.svg"))
    there = [name for name in (*names, *drawings) if (folder / name).exists()]
    if there:
        raise ConfigurationError(
            f"{folder / there[0]}: exists already, and may be your work; name another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigurationError(f"{folder}: is a file; name a folder") from None
    for name in (*names, *drawings):
        shutil.copyfile(one.folder / name, folder / name)
    print(f"chapter {one.number}, {one.title}: read {folder / 'index.md'}, then")
    print(f"  python {folder / 'program.py'}")
    print(f"  vmm course check {one.number} {folder / 'exercise.py'}")
    return 0


def _run(one: Chapter) -> int:
    sys.stdout.flush()
    status = subprocess.run([sys.executable, one.program]).returncode
    if status and (fault := kvm_fault()):
        print(f"vmm: this may be the reason: {fault}", file=sys.stderr)
        return STATUS_HOST
    return status


def _check(one: Chapter, file: Path) -> int:
    lacking = check(one, file, lambda text: print(f"right: {printable(text, _LONGEST)}"))
    if lacking is not None:
        print(f"missing: {printable(lacking, _LONGEST)}")
        return STATUS_MISSING
    print(f"chapter {one.number} is solved")
    return 0
