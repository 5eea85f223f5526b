"""The session of docs/shell.md, with a Linux guest."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(1800)

DEADLINE = 1500.0
PAGE = (Path(__file__).parents[2] / "docs" / "shell.md").read_text()
PROMPT = re.compile(r"^In \[\d+\]: ", re.MULTILINE)
VARYING = [(r"\(\d+\.\d\d s\)", "(N s)"), (r"W 0x[0-9a-f]+\+", "W AT+"), (r"\d+ kicks", "N kicks")]


def plain(text: str) -> str:
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    return text


def blocks(kind: str) -> list[str]:
    """Return what stands in the page's blocks of a kind."""
    parts = re.split(r"^```(.*)\n", PAGE, flags=re.MULTILINE)
    return [text for mark, text in zip(parts[1::4], parts[2::4], strict=True) if mark == kind]


def typed() -> list[str]:
    """Return what the page's session types."""
    lines = "".join(blocks("")).splitlines()
    return [PROMPT.sub("", line) for line in lines if PROMPT.match(line)]


def shown() -> list[str]:
    """Return what the page's session shows, in order."""
    lines = plain("".join(blocks(""))).splitlines()
    return [line for line in lines if line and not PROMPT.match(line)]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    folder = tmp_path_factory.mktemp("session")
    [source] = blocks("python")
    (folder / "dice.py").write_text(source)
    lines = "\n".join([*typed(), "%console 1000"])
    command = [sys.executable, "-m", "vmm", "shell", "--no-rng", "--no-disk"]
    command += ["--device", "dice.py:Dice"]
    # The page's first line waits for the guest's boot, on a busy host too.
    return subprocess.run(
        command,
        input=f"ready = guest.wait_ready(900)\n{lines}",
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env={name: os.environ[name] for name in os.environ if name != "PYVMM_SANDBOX"},
    )


def test_session_of_the_page_shows_what_the_page_says(
    session: subprocess.CompletedProcess[str],
) -> None:
    rest = re.sub(r"Out\[(\d+)\]", lambda one: f"Out[{int(one[1]) - 1}]", plain(session.stdout))
    assert len(shown()) > 10
    for line in shown():
        assert line in rest, session.stdout
        rest = rest.partition(line)[2]


def test_console_is_kept_for_who_asks(session: subprocess.CompletedProcess[str]) -> None:
    assert session.stdout.splitlines()[-1] == "init: ready"


def test_guest_that_is_left_switches_itself_off(session: subprocess.CompletedProcess[str]) -> None:
    assert session.stderr.splitlines()[-1] == "vmm: the guest powered off"


def test_line_that_raised_is_the_exit_status(session: subprocess.CompletedProcess[str]) -> None:
    assert session.returncode == 1
