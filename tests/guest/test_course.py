"""The chapter of the course that boots Linux."""

import subprocess
import sys

import pytest

from tests.unit.vmm.course.test_chapters import shown
from vmm.course.chapters import chapter


@pytest.mark.timeout(1200)
def test_program_that_boots_linux_prints_what_the_page_shows() -> None:
    one = chapter("6")
    command = [sys.executable, str(one.program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100)

    assert done.stderr == ""
    assert done.stdout == shown(one)
