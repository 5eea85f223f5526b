"""The kernels of ``docs/own-kernel.md`` are built and run by the commands that stand there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "own-kernel.md"
BLOCK = r"```{}\n(.*?)```"

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")


@pytest.mark.parametrize(
    ("number", "name", "output", "status"),
    [(0, "hello.c", b"hello world, you have 63 MiB\n", 42), (1, "multi.c", b"hello", 7)],
)
def test_a_kernel_of_the_page_runs_as_it_stands_there(
    tmp_path: Path, number: int, name: str, output: bytes, status: int
) -> None:
    text = PAGE.read_text()
    source = re.findall(BLOCK.format("c"), text, re.DOTALL)[number]
    build, run = re.findall(BLOCK.format("sh"), text, re.DOTALL)[number].splitlines()
    (tmp_path / name).write_text(source)

    subprocess.run(build.split(), cwd=tmp_path, check=True)
    command = [sys.executable, "-m", *run.split(), "--timeout=100"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True)

    assert (done.stdout, done.returncode) == (output, status), done.stderr.decode()
