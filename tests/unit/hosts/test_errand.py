"""What the hardware host is asked to do, and what is read back from its disk."""

import shlex
from pathlib import Path

import pytest

from tests.hosts.errand import PROJECT, Errand, read_back
from tests.hosts.tree import make_ext4
from vmm.image.debian import find_tool

with_debugfs = pytest.mark.skipif(find_tool("debugfs") is None, reason="needs debugfs")


def disk(folder: Path, **files: str) -> Path:
    content = folder / "content"
    (content / "output").mkdir(parents=True)
    for name, text in files.items():
        (content / name).write_text(text)
    (content / "output" / "report.xml").write_text("<testsuites/>")
    make_ext4(content, folder / "errand.img", 8 << 20)
    return folder / "errand.img"


def test_words_of_a_command_stay_as_they_are() -> None:
    command = ["python", "-c", "print('$HOME; `id`')", ""]

    (line,) = [one for one in Errand(command, 60).script().splitlines() if "timeout" in one]

    words = shlex.split(line)
    assert words[words.index("60") + 1 : -1] == command


def test_variables_reach_the_command() -> None:
    script = Errand(["env"], 60, {"COLOUR": "dark blue"}).script()

    assert "'COLOUR=dark blue'" in script


def test_checkout_and_environment_below_tmp_are_seen() -> None:
    lines = Errand(["true"], 60).script().splitlines()
    binds = [line.split()[-1] for line in lines if line.startswith("mount --bind")]

    # What is mounted on /tmp hides what the system's disk has there.
    assert binds.index("/mnt/environment") < binds.index("/tmp") < binds.index(str(PROJECT))


@with_debugfs
def test_status_and_output_come_back(tmp_path: Path) -> None:
    image = disk(tmp_path, status="3\n")

    assert read_back(image, tmp_path / "out") == 3
    assert (tmp_path / "out" / "report.xml").read_text() == "<testsuites/>"


@pytest.mark.parametrize("files", [{}, {"status": ""}, {"status": "-"}])
@with_debugfs
def test_command_that_did_not_end_has_no_status(tmp_path: Path, files: dict[str, str]) -> None:
    image = disk(tmp_path, **files)

    assert read_back(image, None) is None
