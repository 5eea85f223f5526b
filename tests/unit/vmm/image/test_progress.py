"""How the progress of a build is shown, on a terminal and in a log."""

import io
import subprocess
import sys
from pathlib import Path

from vmm.image import ProgressLine


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that tests set."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_terminal_shows_one_line_that_is_rewritten_and_removed() -> None:
    stream, clock = Terminal(), Clock()
    line = ProgressLine(stream, clock=clock)

    line("building", "1 of 9")
    clock.seconds = 2.4
    line("building", "5 of 9")
    line.close()

    assert stream.getvalue() == (
        "\rbuilding: 1 of 9, 0 s\x1b[K\rbuilding: 5 of 9, 2 s\x1b[K\r\x1b[K"
    )


def test_log_gets_a_line_for_each_stage_and_every_30_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    line = ProgressLine(stream, clock=clock)

    for seconds, stage, detail in (
        (0, "installing x", ""),
        (1, "building", "1 of 9"),
        (2, "building", "2 of 9"),
        (30, "building", "3 of 9"),
        (31, "building", "4 of 9"),
    ):
        clock.seconds = seconds
        line(stage, detail)
    line.close()

    assert stream.getvalue().splitlines() == [
        "installing x (0 s)",
        "building: 1 of 9, 1 s",
        "building: 4 of 9, 31 s",
    ]


def test_import_of_the_package_loads_nothing_heavy() -> None:
    heavy = "{'subprocess', 'hashlib', 'shutil'}"
    code = f"import sys, vmm.image; print(sorted({heavy} & set(sys.modules)))"
    root = Path(__file__).parents[4]

    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=root, capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n"
